"""Triton's own way to a product of FP8 matrices, for comparisons: as in its tutorials, with tiles by TMA."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a_desc, b_desc, out_desc, dequant_scale_ptr, K, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE: tl.constexpr):
    """Stores (a . b^T) * dequant_scale, a tile a program; promoted to FP32 registers every BLOCK_K if asked for."""
    row, column = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK_K):
        a, b = a_desc.load([row, k]), b_desc.load([column, k])
        if PROMOTE:
            total += tl.dot(a, b.T)
        else:
            total = tl.dot(a, b.T, total)
    out_desc.store([row, column], (total * tl.load(dequant_scale_ptr)).to(tl.bfloat16))
