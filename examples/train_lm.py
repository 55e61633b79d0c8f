"""Train a small GPT in FP32, BF16, FP16 and FP8 from the same start, and compare speed, memory and loss.

    python -m examples.train_lm                                 all five recipes, under 6 minutes on 2 CPU cores
    python -m examples.train_lm --device cuda --width 2048 --layers 8 --heads 16 --batch 16 --context 1024
    python -m examples.train_lm --recipes bf16,fp8-current      fewer of them

The lines that a training script needs for each recipe are in `RECIPES`, `Run` and `train_step` below. The rest of this file
drives them: the recipes take turns, a few steps each, so that all of them see the same state of the machine.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import mpkernels as mp

from .lm import data, fp16_on_cpu, measure, report
from .lm.model import GPT, GPTConfig

STEPS_PER_TURN = 5  # of one recipe before the next has its turn
WARM_UP_SHARE = 0.1  # of the steps, for the learning rate


@dataclass(frozen=True)
class Recipe:
    """What one way of training changes."""

    autocast: torch.dtype | None = None
    fp8: mp.Float8CurrentScaling | mp.DelayedScaling | None = None


RECIPES = {
    "fp32": Recipe(),
    "bf16": Recipe(autocast=torch.bfloat16),
    "fp16": Recipe(autocast=torch.float16),
    "fp8-current": Recipe(fp8=mp.Float8CurrentScaling()),
    "fp8-delayed": Recipe(fp8=mp.DelayedScaling()),
}


class Run:
    """A model in training under one recipe, and what was seen of it."""

    def __init__(self, name: str, config: GPTConfig, args: argparse.Namespace) -> None:
        self.name, self.recipe, self.device = name, RECIPES[name], args.device
        torch.manual_seed(args.seed)  # the same initial weights for every recipe
        self.model = GPT(config).to(args.device)
        if self.recipe.fp8 is not None:
            self.model = mp.convert_to_fp8_training(self.model.bfloat16(), recipe=self.recipe.fp8)
        # Keeps FP32 masters of BF16 parameters, and clips inside the update.
        self.optimizer = mp.optim.AdamW(self.model.parameters(), lr=args.lr, weight_decay=0.1, max_grad_norm=1.0)
        # FP16 gradients underflow without loss scaling; the other formats have FP32's range, or scales of their own.
        self.scaler = mp.GradScaler(args.device.type, enabled=self.recipe.autocast is torch.float16)
        self.seen = measure.Seen()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.recipe.autocast, enabled=self.recipe.autocast is not None)


def train_step(run: Run, tokens: Tensor, targets: Tensor, lr: float) -> Tensor:
    """One step, the same code for all recipes. Nothing in it waits for the device."""
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    with run.autocast():
        loss = run.model.loss(tokens, targets)
    run.scaler.scale(loss).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    return loss.detach()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.55 + 0.45 * math.cos(math.pi * progress))


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def take_turn(run: Run, batches: list[data.Batch], rates: list[float]) -> None:
    """Train on some batches and note the losses and the time of a step."""
    losses = []
    synchronize(run.device)
    start = time.perf_counter()
    with fp16_on_cpu.products_of(run.device, run.recipe.autocast):
        for (tokens, targets), lr in zip(batches, rates, strict=True):
            losses.append(train_step(run, tokens, targets, lr))
    synchronize(run.device)
    run.seen.turn_seconds.append((time.perf_counter() - start) / len(batches))
    run.seen.losses += torch.stack(losses).tolist()


def train(runs: list[Run], batches: list[data.Batch], args: argparse.Namespace, console: Console) -> None:
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[news]}"),
        TimeRemainingColumn(),
    )
    rates = [learning_rate(step, args.steps, args.lr) for step in range(args.steps)]
    with Progress(*columns, console=console) as progress:
        tasks = {run.name: progress.add_task(run.name, total=args.steps, news="") for run in runs}
        for first in range(0, args.steps, STEPS_PER_TURN):
            turn = slice(first, first + STEPS_PER_TURN)
            for run in runs:
                take_turn(run, batches[turn], rates[turn])
                news = f"loss {run.seen.losses[-1]:.3f}  {run.seen.turn_seconds[-1] * 1e3:6.0f} ms/step"
                progress.update(tasks[run.name], advance=len(batches[turn]), news=news)


@torch.no_grad()
def validate(run: Run, corpus: data.Corpus, args: argparse.Namespace) -> float:
    """Mean loss over the validation windows, in the recipe's own arithmetic."""
    run.model.eval()
    with run.autocast(), fp16_on_cpu.products_of(run.device, run.recipe.autocast):
        batches = data.validation_batches(corpus, args.batch, args.context, args.device)
        total, count = torch.zeros((), device=args.device), 0
        for tokens, targets in batches:
            total += run.model.loss(tokens, targets) * len(tokens)
            count += len(tokens)
    run.model.train()
    return float(total) / count


def inspect(run: Run, batch: data.Batch) -> None:
    """One more forward and backward pass, to count what training keeps and what FP8 loses. The weights stay."""
    seen, layers = run.seen, measure.fp8_candidates(run.model)
    seen.skipped_steps = len(seen.losses) - int(next(iter(run.optimizer.state.values()))["step"])
    with fp16_on_cpu.products_of(run.device, run.recipe.autocast), measure.Fp8Observer(run.model) as observer:
        with run.autocast(), measure.saved_by(layers) as saved:
            loss = run.model.loss(*batch)
        seen.saved_bytes = measure.bytes_saved_for_backward(run.model, saved)
        run.scaler.scale(loss).backward()
    seen.state = measure.state_bytes(run.model, run.optimizer)
    seen.fp8_shares = dict(observer.shares)
    run.optimizer.zero_grad()


def sample(run: Run, seed: int) -> str:
    """A few lines that the trained model writes."""
    run.model.eval()
    with run.autocast():
        text = run.model.generate(b"def ", 200, torch.Generator().manual_seed(seed))
    run.model.train()
    return text.decode("utf-8", errors="replace")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated; default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step; default: %(default)s")
    parser.add_argument("--context", type=int, default=128, help="bytes per sequence; default: %(default)s")
    parser.add_argument("--layers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=768, help="default: %(default)s")
    parser.add_argument("--heads", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=2e-4, help="peak learning rate; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/train_lm"), help="folder of the report; default: %(default)s")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    args = parser.parse_args()
    args.device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.recipes = args.recipes.split(",")
    for name in args.recipes:
        if name not in RECIPES:
            parser.error(f"--recipes must be of {', '.join(RECIPES)}, got {name!r}")
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    return args


def main() -> None:
    args, console = parse_args(), Console()
    start = time.perf_counter()
    corpus = data.load()
    batches = data.training_batches(corpus, args.steps, args.batch, args.context, args.seed, args.device)
    config = GPTConfig(args.context, args.layers, args.width, args.heads)
    runs = [Run(name, config, args) for name in args.recipes]
    facts = report.facts(args, corpus, runs[0].model)
    console.print(report.introduction(facts), highlight=False)

    train(runs, batches, args, console)
    with console.status("validating"):
        for run in runs:
            run.seen.validation_loss = validate(run, corpus, args)
            inspect(run, batches[-1])
        text = sample(runs[-1], args.seed)

    results = report.results(facts, {run.name: run.seen for run in runs}, (runs[-1].name, text), time.perf_counter() - start)
    console.print(report.terminal_table(results))
    for path in report.write(results, args.out):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
