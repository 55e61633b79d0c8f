"""Triton kernel: one thread's work."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...formats import format_of
from ...triton_device import as_float64, float64_bits, scales_of

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")


@triton.jit(do_not_specialize=["largest"])
def compute_scale_kernel(amax, previous, quant_scale, dequant_scale, largest, POWER_OF_TWO: tl.constexpr):
    """`largest`: the bits of fp8_max / 2^margin in float64."""
    kept = tl.full((), 1.0, tl.float32) if previous is None else tl.load(previous)
    new_quant_scale, new_dequant_scale = scales_of(tl.load(amax), as_float64(largest), kept, POWER_OF_TWO)
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
    args = (amax, previous, quant_scale, dequant_scale, float64_bits(format_of(dtype).max * 2.0**-margin))
    triton_launch.launch(compute_scale_kernel, 1, args, {"POWER_OF_TWO": power_of_two}, num_warps=1)
