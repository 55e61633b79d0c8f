"""CUDA kernel: csrc/ops/amax/cuda.cu."""

from __future__ import annotations

from torch import Tensor

from ... import native
from ...layout import as_rows, in_memory_order

TARGETS = native.CUDA_TARGETS


def why_not(x: Tensor) -> str | None:
    return native.cuda_why_not("x", x)


def run(amax: Tensor, x: Tensor) -> None:
    dense = in_memory_order(x)
    native.cuda.amax(as_rows(x) if dense is None else dense, amax)
