"""Triton kernel: one thread's work."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...formats import format_of
from ...triton_device import scales_of

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")


@triton.jit
def compute_scale_kernel(amax, previous, quant_scale, dequant_scale, FP8_MAX: tl.constexpr, MARGIN: tl.constexpr, POWER_OF_TWO: tl.constexpr):
    kept = tl.full((), 1.0, tl.float32) if previous is None else tl.load(previous)
    largest = tl.full((), FP8_MAX * 2.0**-MARGIN, tl.float64)
    new_quant_scale, new_dequant_scale = scales_of(tl.load(amax), largest, kept, POWER_OF_TWO)
    tl.store(quant_scale, new_quant_scale)
    tl.store(dequant_scale, new_dequant_scale)


def why_not(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> str | None:
    return triton_launch.why_not("amax", amax)


def run(
    quant_scale: Tensor,
    dequant_scale: Tensor,
    amax: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    previous: Tensor | None,
) -> None:
    args = (amax, previous, quant_scale, dequant_scale)
    constants = {"FP8_MAX": format_of(dtype).max, "MARGIN": margin, "POWER_OF_TWO": power_of_two}
    triton_launch.launch(compute_scale_kernel, 1, args, num_warps=1, **constants)
