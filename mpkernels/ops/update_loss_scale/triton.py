"""Triton kernel: one thread's work."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...triton_device import as_float64, float64_bits

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")


@triton.jit(do_not_specialize=["growth_factor", "backoff_factor", "growth_interval", "hysteresis"])
def update_loss_scale_kernel(
    loss_scale, growth_tracker, hysteresis_tracker, found_inf, growth_factor, backoff_factor, growth_interval, hysteresis
):
    """The factors are the bits of float64 numbers."""
    bad = tl.load(found_inf) != 0.0
    current = tl.load(loss_scale)
    patience = tl.where(bad, tl.maximum(tl.load(hysteresis_tracker), 1) - 1, hysteresis.to(tl.int32))
    clean_steps = tl.where(bad, 0, tl.load(growth_tracker) + 1)
    grow = (clean_steps.to(tl.int64) == growth_interval.to(tl.int64)) & (bad == 0)
    shrunk = (current.to(tl.float64) * as_float64(backoff_factor)).to(tl.float32)
    grown = (current.to(tl.float64) * as_float64(growth_factor)).to(tl.float32)
    new = tl.where(grow & (tl.abs(grown) < float("inf")), grown, current)
    tl.store(loss_scale, tl.where(bad & (patience == 0), shrunk, new))
    tl.store(growth_tracker, tl.where(grow, 0, clean_steps))
    tl.store(hysteresis_tracker, patience)


def why_not(loss_scale: Tensor, *_rest: object) -> str | None:
    return triton_launch.why_not("loss_scale", loss_scale)


def run(
    loss_scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
) -> None:
    tensors = (loss_scale, growth_tracker, hysteresis_tracker, found_inf)
    numbers = (float64_bits(growth_factor), float64_bits(backoff_factor), growth_interval, hysteresis)
    triton_launch.launch(update_loss_scale_kernel, 1, (*tensors, *numbers), {}, num_warps=1)
