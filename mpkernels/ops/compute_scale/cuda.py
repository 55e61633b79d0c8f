"""CUDA kernel: csrc/ops/compute_scale/cuda.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native

TARGETS = native.CUDA_TARGETS


def why_not(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> str | None:
    return native.cuda_why_not("amax", amax)


def run(
    quant_scale: Tensor,
    dequant_scale: Tensor,
    amax: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    previous: Tensor | None,
) -> None:
    native.cuda.compute_scale(amax, dtype, margin, power_of_two, previous, quant_scale, dequant_scale)
