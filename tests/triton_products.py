"""The FP8 product as Triton makes it, to hold our kernels against. Needs triton."""

import triton
import triton.language as tl


@triton.jit
def product(a_ptr, b_ptr, out_ptr, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile of out (M, N) = a (M, K) . b (N, K)^T, without edges. b is loaded as it lies and transposed for the dot, since
    loading it as (K, N) costs byte shuffles.
    """
    rows, cols = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    a_ptrs, b_ptrs = a_ptr + rows[:, None] * K + depth[None, :], b_ptr + cols[:, None] * K + depth[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(0, K, BLOCK_K):
        acc = tl.dot(tl.load(a_ptrs), tl.load(b_ptrs).T, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc)


@triton.jit
def product_by_tma(
    a_desc, b_desc, out_desc, dequant_scale_ptr, K, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PROMOTE: tl.constexpr
):
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
