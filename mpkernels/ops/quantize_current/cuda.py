"""CUDA kernels of amax and quantize in two launches: csrc/ops/quantize_current/cuda_torch.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import as_rows

TARGETS = native.CUDA_TARGETS
_MOST_PARTIALS = 1024  # amax::kMostPartials


def why_not(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> str | None:
    return native.cuda_why_not("x", x)


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
    partials = amax.new_empty(_MOST_PARTIALS)
    native.cuda.quantize_current(as_rows(x), margin, power_of_two, transpose, partials, q, q_t, amax, quant_scale, dequant_scale)
