"""Triton kernel: one pass, integer maxima (they keep Inf and NaN, and no order of programs matters), one atomic a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...layout import in_memory_order
from ...triton_device import magnitude_bits

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")
BLOCK, ITERATIONS = 4096, 8  # elements a program holds at a time: 16 bytes a thread in bf16, 4 loads in flight; and how often


@triton.jit
def amax_kernel(x, amax_bits, n, BLOCK: tl.constexpr, ITERATIONS: tl.constexpr):
    """amax_bits = max(amax_bits, |x[i]| as int32)."""
    start = tl.program_id(0).to(tl.int64) * (BLOCK * ITERATIONS)
    largest = tl.zeros((BLOCK,), tl.int32)
    for i in range(ITERATIONS):
        at = start + i * BLOCK
        if at + BLOCK <= n:
            largest = tl.maximum(largest, magnitude_bits(tl.load(x + at + tl.arange(0, BLOCK))))
        elif at < n:
            index = at + tl.arange(0, BLOCK)
            largest = tl.maximum(largest, magnitude_bits(tl.load(x + index, mask=index < n, other=0.0)))
    tl.atomic_max(amax_bits, tl.max(largest, 0), sem="relaxed")


def why_not(x: Tensor) -> str | None:
    return triton_launch.why_not("x", x)


def run(amax: Tensor, x: Tensor) -> None:
    amax.zero_()
    if x.numel():
        dense = in_memory_order(x)
        dense = x.contiguous() if dense is None else dense
        grid = triton_launch.cdiv(x.numel(), BLOCK * ITERATIONS)
        args = (dense, amax.view(torch.int32), x.numel())
        triton_launch.launch(amax_kernel, grid, args, {"BLOCK": BLOCK, "ITERATIONS": ITERATIONS}, num_warps=8)
