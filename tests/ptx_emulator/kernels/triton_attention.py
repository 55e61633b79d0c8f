"""Fused attention in Triton, forward: two products, with an online softmax between them."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, out_ptr, logsum_ptr, length, softmax_scale,
    CAUSAL: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # (heads, length, HEAD), one head for each program of axis 1  # fmt: skip
    first, head = tl.program_id(0) * BLOCK_M, tl.program_id(1)
    rows, d = first + tl.arange(0, BLOCK_M), tl.arange(0, HEAD)
    base = head * length * HEAD
    q = tl.load(q_ptr + base + rows[:, None] * HEAD + d[None, :], mask=rows[:, None] < length, other=0.0)
    most, total = tl.full((BLOCK_M,), -float("inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, HEAD), tl.float32)
    for start in range(0, tl.minimum(first + BLOCK_M, length) if CAUSAL else length, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + base + cols[None, :] * HEAD + d[:, None], mask=cols[None, :] < length, other=0.0)
        scores = tl.dot(q, k) * (softmax_scale * LOG2_E)
        allowed = cols[None, :] < length
        if CAUSAL:
            allowed = allowed & (cols[None, :] <= rows[:, None])
        scores = tl.where(allowed, scores, -float("inf"))
        high = tl.maximum(most, tl.max(scores, 1))
        p = tl.exp2(scores - high[:, None])
        fade = tl.exp2(most - high)
        total = total * fade + tl.sum(p, 1)
        v = tl.load(v_ptr + base + cols[:, None] * HEAD + d[None, :], mask=cols[:, None] < length, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
        most = high
    tl.store(logsum_ptr + head * length + rows, most + tl.log2(total), mask=rows < length)
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + base + rows[:, None] * HEAD + d[None, :], out, mask=rows[:, None] < length)


@triton.jit
def attention_by_descriptors(
    q_desc, k_desc, v_desc, out_desc, length, softmax_scale, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
):  # (heads * length, HEAD); length is a multiple of both blocks  # fmt: skip
    first, head = tl.program_id(0) * BLOCK_M, tl.program_id(1)
    q = q_desc.load([head * length + first, 0])
    most, total = tl.full((BLOCK_M,), -float("inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, HEAD), tl.float32)
    for start in tl.range(0, length, BLOCK_N, warp_specialize=WARP_SPECIALIZE):
        k = k_desc.load([head * length + start, 0])
        scores = tl.dot(q, k.T) * (softmax_scale * LOG2_E)
        high = tl.maximum(most, tl.max(scores, 1))
        p = tl.exp2(scores - high[:, None])
        fade = tl.exp2(most - high)
        total = total * fade + tl.sum(p, 1)
        v = v_desc.load([head * length + start, 0])
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
        most = high
    out_desc.store([head * length + first, 0], (acc / total[:, None]).to(out_desc.dtype))
