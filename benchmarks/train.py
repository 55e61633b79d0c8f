"""A training step end to end, by precision and by whose pieces do it: python -m benchmarks.train [--model gpt,dit] [--size small]

The variants take their steps in turn, on the same batches and from the same weights, so that all see the same state of the
machine: ratios hold where times do not. Time by component and peak memory come from steps of their own, as
benchmarks/training/meters.py says. `--json FILE` stores the runs, in place of earlier ones of the same model, size and device;
docs/training-benchmarks.md shows them and how to read them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from examples.lm import fp16_on_cpu
from mpkernels import native

from .training import meters
from .training.variants import PRECISIONS, VARIANTS, Training, Variant, why_not
from .training.workloads import SIZES, WORKLOADS, Workload

WARM_UP = 3  # steps whose times are left out: optimizer state, caches, the first allocations
SPLIT_ROUNDS = 5  # steps of each variant that are taken apart
Result = dict[str, Any]


class StepTimer:
    """Times of steps. On a CPU wall clock. On a GPU events, and beside them the host's time to issue the step."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.host_seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def step(self, training: Training, batch: tuple[torch.Tensor, ...]) -> None:
        if self.on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self._events.append((begin, end))
        start = time.perf_counter()
        training.step(batch)
        self.host_seconds.append(time.perf_counter() - start)
        if self.on_gpu:
            end.record()
            end.synchronize()  # the next variant's step begins with an idle device

    def seconds(self) -> list[float]:
        return [begin.elapsed_time(end) / 1e3 for begin, end in self._events] if self.on_gpu else self.host_seconds


def train(trainings: list[Training], workload: Workload) -> dict[str, StepTimer]:
    """All steps, the variants in turn in each."""
    timers = {training.variant.name: StepTimer(training.device) for training in trainings}
    for batch in workload.batches:
        for training in trainings:
            timers[training.variant.name].step(training, batch)
    return timers


def _row(training: Training, timer: StepTimer, split: meters.Split, workload: Workload) -> Result:
    seconds = sorted(timer.seconds()[WARM_UP:])
    last = len(seconds) - 1
    losses = torch.stack(training.losses[: len(workload.batches)]).tolist()
    tail = losses[-max(1, len(losses) // 4) :]
    step = statistics.median(seconds)
    return {
        "what": training.variant.what,
        "precision": training.variant.precision,
        "pieces": training.variant.pieces,
        "step_s": step,
        "step_p20_s": seconds[round(0.2 * last)],
        "step_p80_s": seconds[round(0.8 * last)],
        "host_s": statistics.median(timer.host_seconds[WARM_UP:]) if timer.on_gpu else None,
        "items_per_s": workload.items_per_step / step,
        "loss": statistics.fmean(tail),
        "losses": losses,
        "components": {name: asdict(seen) for name, seen in split.components.items()},
        "rest_s": split.rest_seconds,
        "memory": asdict(meters.memory(training, workload.batches[-1])),
    }


def _ratio(peer: StepTimer, own: StepTimer) -> float:
    """Median over the steps of peer time / own time, both of the same turn."""
    return statistics.median(p / o for p, o in zip(peer.seconds()[WARM_UP:], own.seconds()[WARM_UP:], strict=True))


def peer_of(variant: Variant) -> str | None:
    """The variant with torch's pieces that does the same job. torch has no FP8 training, so there its BF16 is the peer."""
    if variant.pieces == "torch":
        return None
    return f"{'bf16' if variant.precision == 'fp8' else variant.precision} torch"


def run(workload: Workload, size: str, precisions: list[str], device: torch.device) -> Result:
    """Train and measure every variant of the precisions that can run here."""
    wanted = [variant for variant in VARIANTS if variant.precision in precisions]
    missing = {variant.name: why for variant in wanted if (why := why_not(variant)) is not None}
    trainings = [Training(variant, workload.model(), device) for variant in wanted if variant.name not in missing]
    timers = train(trainings, workload)
    splits = meters.least_split(trainings, workload.batches[-1], SPLIT_ROUNDS)
    names = [training.variant.name for training in trainings]
    rows = {name: _row(training, timers[name], splits[name], workload) for name, training in zip(names, trainings, strict=True)}
    for training in trainings:
        own = training.variant.name
        for key, peer in (("speedup", peer_of(training.variant)), ("speedup_over_fp32", "fp32 torch")):
            rows[own][key] = _ratio(timers[peer], timers[own]) if peer in timers else None
    return {
        "model": workload.name,
        "size": size,
        "device": device.type,
        "machine": machine(device),
        "configuration": workload.configuration,
        "parameters": sum(p.numel() for p in trainings[0].model.parameters()) if trainings else 0,
        "steps": len(workload.batches),
        "items": len(workload.batches) * workload.items_per_step,
        "unit": workload.unit,
        "fp16_products_in_fp32": fp16_on_cpu.is_needed(device, torch.float16),
        "missing": missing,
        "variants": rows,
    }


def machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' if count > 1 else ''}, CPU capability {native.cpu_capability()}"
    return f"{name}, torch {torch.__version__}, {threads}"


def text(result: Result) -> str:
    """A run as a table for the terminal."""
    unit = result["unit"]
    lines = [
        f"{result['model']} {result['size']}, {result['parameters'] / 1e6:.1f} M parameters, {result['steps']} steps, "
        f"{result['machine']}",
        f"{'variant':24} {'step':>10} {unit + '/s':>10} {'x peer':>7} {'x fp32':>7} {'peak':>9} {'loss':>7}   "
        + " ".join(f"{name:>13}" for name in (*meters.COMPONENTS, "rest")),
    ]
    for name, row in result["variants"].items():
        ratios = (row["speedup"], row["speedup_over_fp32"])
        cells = [
            f"{name:24} {row['step_s'] * 1e3:7.1f} ms {row['items_per_s']:10.0f}",
            *(f"{ratio:6.2f}x" if ratio is not None else " " * 7 for ratio in ratios),
            f"{row['memory']['peak'] / 1e6:6.0f} MB {row['loss']:7.3f}  ",
            *(f"{seen['seconds'] * 1e3:7.1f}/{seen['calls']:<5}" for seen in row["components"].values()),
            f"{row['rest_s'] * 1e3:10.1f}",
        ]
        lines.append(" ".join(cells))
    lines.append("components: ms / calls in a step")
    lines += [f"{name}: not measured, {why}" for name, why in result["missing"].items()]
    if result["fp16_products_in_fp32"]:
        lines.append("fp16: this CPU has no FP16 arithmetic; its products are computed in FP32, and its speed says nothing")
    return "\n".join(lines)


def store(file: Path, results: list[Result]) -> None:
    """Runs of the same model, size and device are replaced where they stand, others added."""
    stored = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = {(run["model"], run["size"], run["device"]): run for run in [*stored, *results]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"runs": list(runs.values())}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--model", default=",".join(WORKLOADS), help="default: %(default)s")
    parser.add_argument("--precision", default=",".join(PRECISIONS), help="default: %(default)s")
    parser.add_argument("--size", choices=SIZES, default="small", help="small is for CPUs; base and large want a GPU")
    parser.add_argument("--steps", type=int, default=24, help=f"at least {WARM_UP + 1}; default: %(default)s")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--json", type=Path, help="store the runs in this file")
    options = parser.parse_args()
    device = options.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names, precisions = options.model.split(","), options.precision.split(",")
    for option, given, known in (("--model", names, WORKLOADS), ("--precision", precisions, PRECISIONS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"{option} must be of {', '.join(known)}, got {unknown[0]!r}")
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be at least {WARM_UP + 1}, got {options.steps}")
    results = []
    for name in names:
        results.append(run(WORKLOADS[name](options.size, options.steps, device), options.size, precisions, device))
        print(text(results[-1]), flush=True)
    if options.json is not None:
        store(options.json, results)


if __name__ == "__main__":
    main()
