"""Run benchmark cases on the CPU and print each ratio with its bar: python -m benchmarks.run [--op amax,fp8_linear,...].

`--json FILE` stores the rows, in place of earlier ones of the same cases. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mpkernels import native

from .cases import Case
from .timing import interleaved

FILES = {p.stem.removeprefix("bench_"): p.parent.name for p in sorted(Path(__file__).parent.glob("*/bench_*.py"))}


def cases_of(name: str) -> Iterator[Case]:
    return importlib.import_module(f"benchmarks.{FILES[name]}.bench_{name}").cases()


def measure(case: Case) -> dict[str, Any]:
    """A case's row: seconds, ratio, and whether its bar holds."""
    timings = interleaved({"ours": case.ours, "peer": case.peer})
    ours, peer = timings["ours"], timings["peer"]
    ratio = peer.median / ours.median
    return {
        "case": case.name,
        "against": case.peer_name,
        "ours_s": ours.median,
        "ours_p20_s": ours.p20,
        "ours_p80_s": ours.p80,
        "peer_s": peer.median,
        "ratio": ratio,
        "bar": case.bar,
        "met": case.bar is None or ratio >= case.bar,
        "gflops": case.flops / ours.median / 1e9 if case.flops else None,
        "gbytes_per_s": case.bytes_moved / ours.median / 1e9 if case.bytes_moved else None,
    }


def line(row: dict[str, Any]) -> str:
    """The row as text."""
    speed = f"{row['gflops']:.0f} GFLOP/s" if row["gflops"] else f"{row['gbytes_per_s'] or 0:.1f} GB/s"
    bar = "" if row["bar"] is None else f">= {row['bar']:g}x {'ok' if row['met'] else 'MISSED'}"
    return f"{row['case']:58} {row['ours_s'] * 1e3:10.3f} ms {speed:>14}  {row['ratio']:6.2f}x {bar:16} {row['against']}"


def store(file: Path, machine: str, rows: list[dict[str, Any]]) -> None:
    """Rows of cases that the file has already are replaced where they stand, others added at the end."""
    stored = {(row["case"], row["against"]): row for row in json.loads(file.read_text())["rows"]} if file.exists() else {}
    stored |= {(row["case"], row["against"]): row for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, "rows": list(stored.values())}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--op", default=",".join(FILES), help="comma-separated ops and layers (default: all)")
    parser.add_argument("--json", type=Path, help="store the rows in this file")
    options = parser.parse_args()
    names = options.op.split(",")
    for name in names:
        if name not in FILES:
            parser.error(f"--op must be of {', '.join(FILES)}, got {name!r}")
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU capability {native.cpu_capability()}"
    print(f"{machine}\n{'case':58} {'ours':>13} {'':>14}  {'ratio':>7} {'bar':16} against")
    rows = []
    for name in names:
        for case in cases_of(name):
            rows.append(measure(case))
            print(line(rows[-1]), flush=True)
    if options.json is not None:
        store(options.json, machine, rows)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
