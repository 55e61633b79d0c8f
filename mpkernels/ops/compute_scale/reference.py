"""The definition of compute_scale in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...formats import FP32, format_of

_FLOAT64_WITHOUT_FRACTION = -(2**52)  # as int64: sign and exponent ones, the 52 fraction bits zero


def why_not(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> str | None:
    return None


def run(
    quant_scale: Tensor,
    dequant_scale: Tensor,
    amax: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    previous: Tensor | None,
) -> None:
    # float64 holds amax * 2^margin exactly, and rounding the quotient twice (to 53, then to 24 bits) is the same as once.
    quotient = (format_of(dtype).max / (amax.double() * 2.0**margin)).clamp(max=FP32.max)
    if power_of_two:
        quotient = (quotient.view(torch.int64) & _FLOAT64_WITHOUT_FRACTION).view(torch.float64)
    usable = (amax > 0) & (amax < float("inf"))
    quant_scale.copy_(torch.where(usable, quotient.float(), torch.ones_like(amax) if previous is None else previous))
    dequant_scale.copy_((1 / quant_scale).clamp(max=FP32.max))
