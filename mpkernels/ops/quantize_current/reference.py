"""The definition of quantize_current: the three ops in turn. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ..amax import reference as amax_reference
from ..compute_scale import reference as compute_scale_reference
from ..quantize import reference as quantize_reference


def why_not(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> str | None:
    return None


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
    amax_reference.run(amax, x)
    compute_scale_reference.run(quant_scale, dequant_scale, amax, dtype, margin, power_of_two, None)
    quantize_reference.run(q, q_t, amax, x, quant_scale, dtype, transpose)
