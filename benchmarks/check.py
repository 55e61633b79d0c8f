"""Measure afresh and compare with stored results: python -m benchmarks.check [FILE] [--op ...]. Exits 1 if anything is slower.

Compared are ratios to peers, which hold from run to run where microseconds do not. Slower means: the range from the 20th to
the 80th percentile is below the stored range, and the median by more than the margin, in this run and again in a second one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from . import machine, results, shapes
from .cases import Setup
from .results import Row, key
from .run import FILES, Options, run

MARGIN = 0.15  # medians of one code in five processes differed by 12 % for scaled_mm of 2048^3: its memory lies elsewhere


def slower(stored: Row, fresh: Row, margin: float) -> Iterator[str]:
    """A line for each peer against which a row has become slower."""
    peers = {peer["name"]: peer for peer in fresh["peers"]}
    for before in stored["peers"]:
        now = peers.get(before["name"])
        if now and now["ratio_p80"] < before["ratio_p20"] and now["ratio"] < (1 - margin) * before["ratio"]:
            what = f"{stored['op']} {stored['case']} [{stored['backend']}]"
            yield f"{what}: {before['ratio']:.2f}x -> {now['ratio']:.2f}x {before['name']}"


def compare(stored: list[Row], fresh: list[Row], margin: float = MARGIN) -> dict[tuple[str, str, str], list[str]]:
    """Key of a row -> its lines, of rows that both have and that became slower."""
    now = {key(row): row for row in fresh}
    found = {key(row): list(slower(row, now[key(row)], margin)) for row in stored if key(row) in now}
    return {of: lines for of, lines in found.items() if lines}


def measure(names: list[str], options: Options) -> list[Row] | None:
    """None if a test is red."""
    rows: list[Row] = []
    for name in names:
        found = run(name, options)
        if found is None:
            return None
        rows += found
    return rows


def main(arguments: list[str] | None = None) -> int:
    device = torch.device(machine.default_device())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=results.FOLDER / machine.file_name(machine.facts(device)))
    parser.add_argument("--op", default=",".join(FILES), help="comma-separated ops and layers (default: all)")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help=f"the least change of a ratio that counts (default: {MARGIN})"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="the most time for a case (default: 3)")
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests first")
    given = parser.parse_args(arguments)
    if not given.file.exists():
        parser.error(f"there are no stored results {given.file}: run `make bench-cpu` or `make bench-gpu` first")
    facts, stored = results.load(given.file)
    if facts != machine.facts(device):
        print(f"the stored results are of {machine.described(facts)}; ratios need not hold here")
    stored = [row for row in stored if row["op"] in given.op.split(",") and "median_s" in row]
    backends = tuple(dict.fromkeys(row["backend"] for row in stored if row["backend"] != "default"))
    setup = Setup(device, frozenset(row["family"] for row in stored) & frozenset(shapes.FAMILIES))
    options = Options(
        setup, backends, peers=False, tests=not given.no_tests, seconds=given.seconds, only={key(row) for row in stored}
    )
    names = list(dict.fromkeys(row["op"] for row in stored))
    fresh = measure(names, options)
    if fresh is None:
        return 1
    suspects = compare(stored, fresh, given.margin)
    if suspects:
        print("measured again, what seems slower:")
        again = measure(list(dict.fromkeys(name for name, _, _ in suspects)), replace(options, tests=False, only=suspects.keys()))
        suspects = compare([row for row in stored if key(row) in suspects], again or [], given.margin)
    lines = [line for found in suspects.values() for line in found]
    print("\n".join(["slower:", *lines]) if lines else f"nothing got slower in {len(fresh)} cases")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
