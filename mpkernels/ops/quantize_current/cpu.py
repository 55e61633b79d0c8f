"""Compiled CPU kernels of amax, compute_scale and quantize in one call: csrc/ops/quantize_current/torch.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import dense_either_way

TARGETS = ("default", "avx2", "avx512")
_kernel = native.cpu_kernel("quantize_current")


def why_not(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> str | None:
    if not x.is_cpu:
        return f"x is on {x.device}, not on the CPU"
    return native.cpu_missing


def run(
    q: Tensor,
    q_t: Tensor,
    amax: Tensor,
    quant_scale: Tensor,
    dequant_scale: Tensor,
    x: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    transpose: bool,
) -> None:
    _kernel(dense_either_way(x), margin, power_of_two, transpose, q, q_t, amax, quant_scale, dequant_scale)
