"""The bars of the demo, from its results: python -m benchmarks.demo RESULTS.json [--json FILE].

`--json FILE` adds the rows to the results that `benchmarks.run --json FILE` has stored. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .run import store

FP8 = ("fp8-current", "fp8-delayed")


def row(case: str, against: str, ratio: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    met = ratio >= at_least if at_least is not None else at_most is None or ratio <= at_most
    return {"case": case, "against": against, "ratio": ratio, "bar": at_least, "at_most": at_most, "met": met}


def rows(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each bar and recipe."""
    saved = {name: run["saved_for_backward_bytes"] for name, run in runs.items()}
    found = [row("demo: bf16 training step", "fp32", runs["bf16"]["speedup"], at_least=3.0)]
    for name in FP8:
        found.append(row(f"demo: {name} training step", "fp32", runs[name]["speedup"], at_least=2.5))
        loss = 1 + runs[name]["validation_loss_difference"]
        found.append(row(f"demo: {name} final validation loss", "fp32", loss, at_most=1.01))
        bytes_saved = saved[name] / saved["bf16"]
        found.append(row(f"demo: {name} bytes saved for backward", "bf16", bytes_saved, at_most=0.55))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("results", type=Path, help="results.json of examples.train_lm")
    parser.add_argument("--json", type=Path, help="add the rows to this file")
    options = parser.parse_args()
    found = rows(json.loads(options.results.read_text())["runs"])
    for one in found:
        bar = f">= {one['bar']:g}x" if one["bar"] is not None else f"<= {one['at_most']:g}x"
        print(f"{one['case']:58} {one['ratio']:7.3f}x  {bar} {'ok' if one['met'] else 'MISSED':8} {one['against']}")
    if options.json is not None:
        store(options.json, json.loads(options.json.read_text())["machine"], found)
    return 0 if all(one["met"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
