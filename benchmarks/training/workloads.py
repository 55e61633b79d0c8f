"""The models that are trained, at the sizes that `--size` names, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.lm import data
from examples.lm.model import GPT, GPTConfig

from . import dit
from .dit import DiT, DiTConfig

SEED = 0
# name -> (configuration, batch). tiny: for tests. small: a minute on two CPU cores. base: GPT-2 (Radford et al., 2019) and
# DiT-B/2 at 256 x 256 pixels. large: Llama 3 8B's width, where GEMMs are large enough for FP8 to pay; DiT-XL/2.
GPT_SIZES = {
    "tiny": (GPTConfig(context=32, layers=1, width=128, heads=2), 2),
    "small": (GPTConfig(context=128, layers=2, width=256, heads=4), 8),
    "base": (GPTConfig(context=1024, layers=12, width=768, heads=12), 8),
    "large": (GPTConfig(context=2048, layers=8, width=4096, heads=32), 4),
}
DIT_SIZES = {
    "tiny": (DiTConfig(resolution=8, layers=1, width=128, heads=2), 2),
    "small": (DiTConfig(resolution=16, layers=2, width=256, heads=4), 16),
    "base": (DiTConfig(resolution=32, layers=12, width=768, heads=12), 32),
    "large": (DiTConfig(resolution=32, layers=28, width=1152, heads=16), 32),
}
SIZES = tuple(GPT_SIZES)


@dataclass(frozen=True)
class Workload:
    """`model()` makes the model with its first weights, always the same ones. A batch is what its `loss` takes."""

    name: str
    model: Callable[[], nn.Module]
    batches: list[tuple[Tensor, ...]]
    items_per_step: int
    unit: str  # of the items
    configuration: dict[str, int]


def _seeded(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(SEED)
        return model()

    return make


def gpt(size: str, steps: int, device: torch.device) -> Workload:
    """Bytes of Python's standard library, which every machine that runs this has."""
    config, batch = GPT_SIZES[size]
    batches = data.training_batches(data.load(), steps, batch, config.context, SEED, device)
    made = _seeded(lambda: GPT(config).to(device))
    return Workload("gpt", made, list(batches), batch * config.context, "tokens", {**vars(config), "batch": batch})


def diffusion(size: str, steps: int, device: torch.device) -> Workload:
    config, batch = DIT_SIZES[size]
    made = _seeded(lambda: DiT(config).to(device))
    batches = dit.batches(config, steps, batch, SEED, device)
    return Workload("dit", made, list(batches), batch, "images", {**vars(config), "batch": batch})


WORKLOADS = {"gpt": gpt, "dit": diffusion}
