"""The bars of the demo, from its results: python -m benchmarks.demo RESULTS.json [--json FILE].

`--json FILE` adds the rows to the results that `benchmarks.run --json FILE` has stored. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import results
from .results import Row

FP8 = ("fp8-current", "fp8-delayed")


def row(case: str, against: str, ratio: float, *, least: float | None = None, most: float | None = None) -> Row:
    return {"op": "demo", "case": case, "backend": "default", "bars": [results.bar(against, ratio, least=least, most=most)]}


def rows(runs: dict[str, Any]) -> list[Row]:
    """One row for each bar and recipe."""
    saved = {name: run["saved_for_backward_bytes"] for name, run in runs.items()}
    found = [row("bf16 training step", "fp32", runs["bf16"]["speedup"], least=3.0)]
    for name in FP8:
        found.append(row(f"{name} training step", "fp32", runs[name]["speedup"], least=2.5))
        loss = 1 + runs[name]["validation_loss_difference"]
        found.append(row(f"{name} final validation loss", "fp32", loss, most=1.01))
        found.append(row(f"{name} bytes saved for backward", "bf16", saved[name] / saved["bf16"], most=0.55))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("results", type=Path, help="results.json of examples.train_lm")
    parser.add_argument("--json", type=Path, help="add the rows to this file")
    options = parser.parse_args()
    found = rows(json.loads(options.results.read_text())["runs"])
    bars = [(one["case"], bar) for one in found for bar in one["bars"]]
    for case, bar in bars:
        print(f"{case:40} {bar['value']:7.3f}x  {results.limit(bar)} {'met' if bar['met'] else 'MISSED':8} {bar['against']}")
    if options.json is not None:
        results.store(options.json, results.load(options.json)[0], found)
    return 0 if all(bar["met"] for _, bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
