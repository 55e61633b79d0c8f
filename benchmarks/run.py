"""Run benchmark cases on the CPU and print each ratio with its bar: python -m benchmarks.run [--op amax,quantize,...].

Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from mpkernels import native

from .cases import Case
from .timing import interleaved

OPS = sorted(p.stem.removeprefix("bench_") for p in (Path(__file__).parent / "ops").glob("bench_*.py"))


def cases_of(op: str) -> Iterator[Case]:
    return importlib.import_module(f"benchmarks.ops.bench_{op}").cases()


def line(case: Case) -> tuple[str, bool]:
    """The table row of a case, and whether its bar holds."""
    timings = interleaved({"ours": case.ours, "peer": case.peer})
    ours, peer = timings["ours"].median, timings["peer"].median
    ratio = peer / ours
    speed = f"{case.flops / ours / 1e9:.0f} GFLOP/s" if case.flops else f"{case.bytes_moved / ours / 1e9:.1f} GB/s"
    met = case.bar is None or ratio >= case.bar
    bar = "" if case.bar is None else f">= {case.bar:g}x {'ok' if met else 'MISSED'}"
    return f"{case.name:58} {ours * 1e3:10.3f} ms {speed:>14}  {ratio:6.2f}x {bar:16} {case.peer_name}", met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", default=",".join(OPS), help="comma-separated ops (default: all)")
    wanted = parser.parse_args().op.split(",")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU capability {native.cpu_capability()}")
    print(f"{'case':58} {'ours':>13} {'':>14}  {'ratio':>7} {'bar':16} against")
    all_met = True
    for op in wanted:
        for case in cases_of(op):
            row, met = line(case)
            print(row, flush=True)
            all_met &= met
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
