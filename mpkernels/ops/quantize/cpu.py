"""Compiled CPU kernel: csrc/ops/quantize/cpu.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import as_rows

TARGETS = ("default", "avx2", "avx512")
_kernel = native.cpu_kernel("quantize")


def why_not(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> str | None:
    if not x.is_cpu:
        return f"x is on {x.device}, not on the CPU"
    return native.cpu_missing


def run(q: Tensor, q_t: Tensor, amax: Tensor, x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    _kernel(as_rows(x), quant_scale, transpose, q, q_t, amax)
