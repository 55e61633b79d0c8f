"""The definition of quantize in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...formats import format_of
from ..amax import reference as amax_reference

NAN_CODE = 0x7F  # of both formats, without the sign


def encode(x: Tensor, quant_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The FP8 codes. The magnitude is clamped before the cast: beyond the maximum torch's cast differs by format and version."""
    magnitude = (x.float() * quant_scale).abs().clamp(max=format_of(dtype).max)
    code = magnitude.to(dtype).view(torch.uint8)  # round to nearest even
    code = torch.where(magnitude.isnan(), NAN_CODE, code)
    negative = x.signbit() ^ quant_scale.signbit()
    return (code | negative.to(torch.uint8) << 7).view(dtype)


def why_not(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> str | None:
    return None


def run(q: Tensor, q_t: Tensor, amax: Tensor, x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    q.copy_(encode(x, quant_scale, dtype))
    if transpose:
        q_t.copy_(q.t())
    amax_reference.run(amax, x)
