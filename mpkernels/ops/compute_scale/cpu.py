"""Compiled CPU kernel: csrc/ops/compute_scale/cpu.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native

TARGETS = ("default",)
_kernel = native.cpu_kernel("compute_scale")


def why_not(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> str | None:
    if not amax.is_cpu:
        return f"amax is on {amax.device}, not on the CPU"
    return native.cpu_missing


def run(
    quant_scale: Tensor,
    dequant_scale: Tensor,
    amax: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    previous: Tensor | None,
) -> None:
    _kernel(amax, dtype, margin, power_of_two, previous, quant_scale, dequant_scale)
