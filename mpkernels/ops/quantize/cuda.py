"""CUDA kernels: csrc/ops/quantize/cuda.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import as_rows

TARGETS = native.CUDA_TARGETS


def why_not(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> str | None:
    return native.cuda_why_not("x", x)


def run(q: Tensor, q_t: Tensor, amax: Tensor, x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    native.cuda.quantize(as_rows(x), quant_scale, transpose, q, q_t, amax)
