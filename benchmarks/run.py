"""Measure ops and layers beside their peers: python -m benchmarks.run --op quantize,scaled_mm --backend all --peers.

Each op's quick tests run first. Every case prints a line for each backend (median, 20th to 80th percentile, rate, fraction of
this device's ceiling) and one for each peer (peer time / ours). Exits 1 if a test is red or a bar is missed. docs/benchmarks.md
explains it all.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from mpkernels.dispatch import BACKENDS, OPS, BackendUnavailable, Op

from . import gate, machine, results, shapes, timing
from .cases import Case, Setup
from .results import Row
from .timing import Call, Timing

FILES = {p.stem.removeprefix("bench_"): p.parent.name for p in sorted(Path(__file__).parent.glob("*/bench_*.py"))}
STREAM, MATMUL = "stream", "matmul"  # variants that show the ceiling
WHOLE = "default"  # the backend of a layer or a step: whatever its ops choose


@dataclass(frozen=True)
class Options:
    """backends: names, or empty for the first that runs. only: keys of the rows wanted, or None for all. end: by the clock."""

    setup: Setup
    backends: tuple[str, ...] = ()
    peers: bool = False
    tests: bool = True
    seconds: float = 3.0
    end: float = math.inf
    only: Collection[tuple[str, str, str]] | None = None


def op_of(name: str) -> Op | None:
    """The op that a bench file is about, if it is about one."""
    return next((op for op in OPS.values() if op.package.rpartition(".")[2] == name), None)


def usable(name: str, options: Options) -> tuple[list[str], dict[str, str]]:
    """The backends to measure, and of those asked for that do not run here the reasons. Asked with the op's example arguments."""
    op = op_of(name)
    if op is None:
        return [WHOLE], {}
    reasons = op.explain(*op.bind(*op.example(options.setup.device)))
    able = [backend for backend in options.backends or BACKENDS if reasons[backend] is None]
    refused = {backend: str(reasons[backend]) for backend in options.backends if reasons[backend] is not None}
    return able if options.backends else able[:1], refused


def working(calls: dict[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Of calls still to be made: those that were made and called, and the reasons why others were not."""
    found, missing = {}, {}
    for name, make in calls.items():
        try:
            call = make()
            call()
        except Exception as error:  # a peer may refuse in any way: it is named with its reason
            lines = str(error).strip().splitlines() or [""]
            missing[name] = f"{type(error).__name__}: {lines[0][:200]}"
        else:
            found[name] = call
    return found, missing


def variants_of(case: Case, backends: list[str], options: Options) -> tuple[dict[str, Call], dict[str, Call], dict[str, str]]:
    """Ours by backend, peers by name, and what is missing with the reasons."""
    ours: dict[str, Call] = {}
    missing = {}
    for backend in backends:
        chosen = None if backend == WHOLE else backend
        try:
            case.ours(chosen)
        except BackendUnavailable as why:
            missing[backend] = str(why)
        else:
            ours[backend] = lambda chosen=chosen: case.ours(chosen)
    makers: dict[str, Callable[[], Call]] = {name: lambda call=call: call for name, call in case.peers.items()}
    peers, absent = working(makers | (dict(case.more_peers) if options.peers else {}))
    return ours, peers, missing | absent


def ceiling_variants(case: Case, ceilings: machine.Ceilings) -> dict[str, Call]:
    """A tiny case has none: it measures the call, not the work."""
    if case.shape.family == "tiny":
        return {}
    found = {STREAM: ceilings.stream(case.bytes_moved)} if case.bytes_moved else {}
    return found | ({MATMUL: ceilings.matmul} if case.flops else {})


def rows_of(name: str, case: Case, ceilings: machine.Ceilings, options: Options, backends: list[str]) -> list[Row]:
    """Measure a case: a row for each backend."""
    ours, peers, missing = variants_of(case, backends, options)
    device = options.setup.device
    calls = {f"ours {b}": call for b, call in ours.items()} | {f"peer {p}": call for p, call in peers.items()}
    found = timing.interleaved(calls | ceiling_variants(case, ceilings), timing.on(device), seconds=options.seconds)
    common = {
        "op": name,
        "case": case.name,
        **asdict(case.shape),
        "bytes": case.bytes_moved,
        "flops": case.flops,
        "tests": "green" if options.tests else "not run",
        "clock_mhz": machine.clock_mhz(device),
        "missing": missing,
        **machine.provenance(),
    }
    peer_timings = {p: found[f"peer {p}"] for p in peers}
    measured = {b: figures(case, found[f"ours {b}"], peer_timings, Ceiling.of(found, case, ceilings)) for b in ours}
    promised = {b: device.type == "cpu" and b in ("cpu", WHOLE) for b in ours}
    return [
        common | {"backend": b} | figured | {"bars": bars(case, figured) if promised[b] else []}
        for b, figured in measured.items()
    ]


class Ceiling(NamedTuple):
    """Round by round, the least seconds that the device needs for a case; and what it did in the median."""

    samples: tuple[float, ...]
    memory_bytes_per_s: float | None
    matmul_flops_per_s: float | None

    @staticmethod
    def of(found: dict[str, Timing], case: Case, ceilings: machine.Ceilings) -> Ceiling:
        stream, matmul = found.get(STREAM), found.get(MATMUL)
        work = case.flops / ceilings.matmul_flops
        limits = [stream.samples] if stream else []
        limits += [tuple(sample * work for sample in matmul.samples)] if matmul else []
        return Ceiling(
            tuple(map(max, *limits)) if len(limits) == 2 else limits[0] if limits else (),
            case.bytes_moved / stream.median if stream else None,
            ceilings.matmul_flops / matmul.median if matmul else None,
        )


def figures(case: Case, ours: Timing, peers: dict[str, Timing], ceiling: Ceiling) -> Row:
    """What was measured. A ratio is the median of the ratios within each round."""
    return {
        "method": ours.method,
        "rounds": len(ours.samples),
        "median_s": ours.median,
        "p20_s": ours.p20,
        "p80_s": ours.p80,
        "of_ceiling": timing.ratios(ceiling.samples, ours.samples).median if ceiling.samples else None,
        "memory_bytes_per_s": ceiling.memory_bytes_per_s,
        "matmul_flops_per_s": ceiling.matmul_flops_per_s,
        "peers": [peer_figures(name, peer, timing.ratios(peer.samples, ours.samples)) for name, peer in peers.items()],
    }


def peer_figures(name: str, peer: Timing, ratio: Timing) -> Row:
    found = {"ratio": ratio.median, "ratio_p20": ratio.p20, "ratio_p80": ratio.p80}
    return {"name": name, "median_s": peer.median, "method": peer.method} | found


def bars(case: Case, measured: Row) -> list[Row]:
    """Those of peers that were there."""
    ratios = {peer["name"]: peer["ratio"] for peer in measured["peers"]}
    found = [results.bar(against, ratios[against], least=least) for against, least in case.bars.items() if against in ratios]
    if case.at_most_us is not None:
        found.append(results.bar("the clock", measured["median_s"] * 1e6, most=case.at_most_us, unit=" us"))
    return found


def rate(row: Row) -> str:
    """TFLOP/s or GB/s, or nothing for a call without work."""
    if row["family"] == "tiny":
        return ""
    if row["flops"]:
        return f"{row['flops'] / row['median_s'] / 1e12:.4g} TFLOP/s"
    return f"{row['bytes'] / row['median_s'] / 1e9:.4g} GB/s"


def lines_of(row: Row) -> Iterator[str]:
    """A row as text."""
    us = [f"{row[q] * 1e6:.4g}" for q in ("median_s", "p20_s", "p80_s")]
    ceiling = "" if row["of_ceiling"] is None else f"{row['of_ceiling']:6.1%} of the ceiling"
    yield f"{row['op']} {row['case']} [{row['backend']}] {us[0]} us ({us[1]} to {us[2]}) {rate(row)} {ceiling}".rstrip()
    for peer in row["peers"]:
        how = f" [{peer['method']}]" if peer["method"] != row["method"] else ""
        yield f"    {peer['ratio']:7.2f}x ({peer['ratio_p20']:.2f} to {peer['ratio_p80']:.2f})  {peer['name']}{how}"
    for bar in row["bars"]:
        met = "met" if bar["met"] else "MISSED"
        yield f"    bar {results.limit(bar)} {met}: {bar['value']:.3g}{bar['unit']}  {bar['against']}"


def cases_of(name: str, setup: Setup) -> Iterator[Case]:
    found: Iterator[Case] = importlib.import_module(f"benchmarks.{FILES[name]}.bench_{name}").cases(setup)
    return found


def run(name: str, options: Options, say: Callable[[str], None] = print) -> list[Row] | None:
    """Test and measure an op or layer: its rows, or None if a test is red."""
    backends, refused = usable(name, options)
    for backend, why in refused.items():
        say(f"{name} [{backend}] is not measured: {why}")
    if not backends:
        return []
    if options.tests and (why := gate.red(name, backends)) is not None:
        say(f"{name} is not measured: its tests are not green\n{why}")
        return None
    rows: list[Row] = []
    try:
        for row in measured(name, options, backends, say):
            rows.append(row)
    except torch.OutOfMemoryError as error:
        say(f"{name}: the rest is not measured: {str(error).splitlines()[0]}")
    return rows


def measured(name: str, options: Options, backends: list[str], say: Callable[[str], None]) -> Iterator[Row]:
    """Each row, once it is printed."""
    ceilings = machine.Ceilings(options.setup.device)
    told: set[tuple[str, str]] = set()
    for case in cases_of(name, options.setup):
        if time.perf_counter() > options.end:
            say(f"{name}: the time is up, the rest is not measured")
            break
        if options.only is not None and not any((name, case.name, backend) in options.only for backend in backends):
            continue
        for row in rows_of(name, case, ceilings, options, backends):
            say("\n".join(lines_of(row)))
            for what, why in row["missing"].items() - told:
                say(f"    missing  {what}: {why}")
            told |= row["missing"].items()
            yield row


def parse(arguments: list[str] | None) -> tuple[Options, list[str], Path | None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--op", default=",".join(FILES), help="comma-separated ops and layers (default: all)")
    parser.add_argument("--device", default=machine.default_device(), choices=("cpu", "cuda"))
    parser.add_argument("--backend", default="", help="comma-separated backends, or all (default: the dispatcher's choice)")
    parser.add_argument("--peers", action="store_true", help="torch.compile and other packages too, besides torch")
    parser.add_argument(
        "--shapes", default="", help=f"comma-separated of {', '.join(shapes.FAMILIES)}; default: what suits the device"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="the most time for a case (default: 3)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after this time (default: never mind)")
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests first; the results say so")
    parser.add_argument("--json", type=Path, help="store the rows in this file, or in this folder under the device's name")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and machine.default_device() != "cuda":
        parser.error("there is no CUDA device here: torch.cuda.is_available() is False. --device cpu measures the CPU")
    families = given.shapes.split(",") if given.shapes else shapes.DEFAULT[given.device]
    backends = BACKENDS if given.backend == "all" else tuple(filter(None, given.backend.split(",")))
    names = given.op.split(",")
    for option, values, known in (("op", names, FILES), ("shapes", families, shapes.FAMILIES), ("backend", backends, BACKENDS)):
        for value in values:
            if value not in known:
                parser.error(f"--{option} must be of {', '.join(known)}, got {value!r}")
    setup = Setup(torch.device(given.device), frozenset(families))
    end = time.perf_counter() + 60 * given.minutes
    return Options(setup, backends, given.peers, not given.no_tests, given.seconds, end), names, given.json


def main(arguments: list[str] | None = None) -> int:
    options, names, file = parse(arguments)
    facts = machine.facts(options.setup.device)
    if file is not None and (file.is_dir() or not file.suffix):
        file = file / machine.file_name(facts)
    told = "" if options.tests else "; the tests were NOT run"
    print(f"{machine.described(facts)}; commit {machine.provenance()['commit']}{told}")
    good = True
    for name in names:
        rows = run(name, options)
        good &= rows is not None and all(bar["met"] for row in rows for bar in row["bars"])
        if file is not None and rows:
            results.store(file, facts, rows)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
