"""Ways to train: a precision, and whose pieces do it. Each is what that library's documentation tells a user to write."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mpkernels as mp
from examples.lm import fp16_on_cpu

LR, WEIGHT_DECAY, MAX_NORM = 3e-4, 0.1, 1.0
PRECISIONS = ("fp32", "bf16", "fp16", "fp8")


@dataclass(frozen=True)
class Variant:
    """One way to train. `pieces` is the owner of the optimizer, the scaler and the FP8 layers.

    weights: dtype of the parameters; 16-bit ones have FP32 masters in mpkernels' optimizer.
    autocast: dtype of torch.autocast around the forward pass.
    """

    name: str
    precision: str
    pieces: str
    what: str
    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    convert: Callable[[nn.Module], nn.Module] | None = None

    @property
    def is_scaled(self) -> bool:
        return self.precision == "fp16"


def _fp8(recipe: mp.recipes.Recipe) -> Callable[[nn.Module], nn.Module]:
    return lambda model: mp.convert_to_fp8_training(model, recipe=recipe)


def _torchao(model: nn.Module) -> nn.Module:
    from torchao.float8 import convert_to_float8_training

    return convert_to_float8_training(model, module_filter_fn=lambda module, fqn: mp.convert.why_not_fp8(module, fqn) is None)


BF16, FP16 = torch.bfloat16, torch.float16
VARIANTS = (
    Variant("fp32 torch", "fp32", "torch", "AdamW(fused), clip_grad_norm_"),
    Variant("fp32 mpkernels", "fp32", "mpkernels", "mp.optim.AdamW, which clips"),
    Variant("bf16 torch", "bf16", "torch", "autocast on FP32 weights, AdamW(fused), clip_grad_norm_", autocast=BF16),
    Variant("bf16 mpkernels", "bf16", "mpkernels", "BF16 weights, FP32 masters in mp.optim.AdamW", weights=BF16),
    Variant("fp16 torch", "fp16", "torch", "autocast on FP32 weights, GradScaler, AdamW(fused)", autocast=FP16),
    Variant("fp16 mpkernels", "fp16", "mpkernels", "FP16 weights, mp.GradScaler, FP32 masters in mp.optim.AdamW", weights=FP16),
    Variant(
        "fp8 torchao",
        "fp8",
        "torchao",
        "float8 tensorwise on FP32 weights, autocast, AdamW(fused)",
        convert=_torchao,
        autocast=BF16,
    ),
    Variant(
        "fp8 current mpkernels",
        "fp8",
        "mpkernels",
        "BF16 weights, Float8CurrentScaling, FP32 masters in mp.optim.AdamW",
        weights=BF16,
        convert=_fp8(mp.Float8CurrentScaling()),
    ),
    Variant(
        "fp8 delayed mpkernels",
        "fp8",
        "mpkernels",
        "BF16 weights, DelayedScaling, FP32 masters in mp.optim.AdamW",
        weights=BF16,
        convert=_fp8(mp.DelayedScaling()),
    ),
)


def why_not(variant: Variant) -> str | None:
    """None if it can be measured here."""
    if variant.pieces == "torchao" and importlib.util.find_spec("torchao") is None:
        return "torchao is not installed"
    return None


def torch_adamw(params: list[nn.Parameter]) -> torch.optim.AdamW:
    """The fused one where torch has it for the device."""
    try:
        return torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY)


class Training:
    """A model in training by one variant. A step is `forward_backward`, then `update`."""

    def __init__(self, variant: Variant, model: nn.Module, device: torch.device) -> None:
        self.variant, self.device = variant, device
        self.model = model.to(variant.weights)
        if variant.convert is not None:
            self.model = variant.convert(self.model)
        params = list(self.model.parameters())
        self.is_ours = variant.pieces == "mpkernels"
        if self.is_ours:
            self.optimizer = mp.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_NORM)
            self.scaler = mp.GradScaler(device.type, enabled=variant.is_scaled)
        else:
            self.optimizer = torch_adamw(params)
            self.scaler = torch.amp.GradScaler(device.type, enabled=variant.is_scaled)
        self.losses: list[Tensor] = []

    def forward_backward(self, batch: tuple[Tensor, ...]) -> None:
        # FP16 products of a CPU without instructions for them are computed in FP32 and rounded; see examples/lm.
        dtype = torch.float16 if self.variant.is_scaled else None
        with fp16_on_cpu.products_of(self.device, dtype):
            with torch.autocast(self.device.type, dtype=self.variant.autocast, enabled=self.variant.autocast is not None):
                loss = self.model.loss(*batch)
            self.scaler.scale(loss).backward()
        self.losses.append(loss.detach())

    def update(self) -> None:
        if not self.is_ours:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def step(self, batch: tuple[Tensor, ...]) -> None:
        self.forward_backward(batch)
        self.update()
