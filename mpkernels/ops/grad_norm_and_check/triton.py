"""Triton kernels: a float64 partial sum for each chunk (one launch for each dtype), then one program that adds them in order.

float64 is slow on most GPUs, so squares are taken and added four at a time in float32 and only these sums are float64 work:
ulp(4), docs/numerics.md. A chunk whose largest magnitude is outside the range where float32 squares are sound is read once more
and summed in float64 throughout; so are chunks with Inf or NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...layout import in_memory_order
from ...triton_device import FIRST_INFINITE, POINTED, magnitude_bits
from ...triton_tables import CHUNK, HEADER, table_of
from ..unscale_and_check.triton import BLOCK, by_dtype
from ..unscale_and_check.triton import TARGETS as TARGETS

# As float32 bits. Four squares of 2^60 add up to 2^122. Below a largest of 2^-40, elements count whose squares are subnormal;
# above it they are under 2^-63, 2^-46 of the sum's root each, and a chunk has 2^14.
SQUARES_FIT_BELOW = (127 + 60) << 23
SQUARES_FIT_ABOVE = (127 - 40) << 23


@triton.jit(do_not_specialize_on_alignment=["rows", "chunks", "partial_sums"])
def partial_sums_kernel(
    rows,
    chunks,
    inv_loss_scale,
    found_inf_bits,
    partial_sums,
    DTYPE: tl.constexpr,
    FIRST_INFINITE: tl.constexpr,
    BELOW: tl.constexpr,
    ABOVE: tl.constexpr,
    HEADER: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0)
    row = rows + tl.load(chunks + chunk) * (HEADER + 1)
    n, first = tl.load(row), tl.load(row + 1)
    grad = tl.load(row + HEADER).to(tl.pointer_type(DTYPE))
    start = (chunk - first) * CHUNK
    largest = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK // 4,), tl.float64)
    if (tl.load(row + 2) != 0) & (start + CHUNK <= n):
        aligned = tl.multiple_of(grad, 16)
        for at in range(0, CHUNK, BLOCK):
            g = tl.load(aligned + start + at + tl.arange(0, BLOCK)).to(tl.float32)
            largest = tl.maximum(largest, magnitude_bits(g))
            total += tl.sum(tl.reshape(g * g, (BLOCK // 4, 4)), 1).to(tl.float64)
    else:
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            g = tl.load(grad + index, mask=index < n, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, magnitude_bits(g))
            total += tl.sum(tl.reshape(g * g, (BLOCK // 4, 4)), 1).to(tl.float64)
    top = tl.max(largest, 0)
    if (top >= BELOW) | (top <= ABOVE):
        total = tl.zeros((BLOCK // 4,), tl.float64)
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            g = tl.load(grad + index, mask=index < n, other=0.0).to(tl.float64)
            total += tl.sum(tl.reshape(g * g, (BLOCK // 4, 4)), 1)
    tl.store(partial_sums + chunk, tl.sum(total, 0))
    # Rounding is monotonic: the largest magnitude's product is the largest product.
    unscaled = top.to(tl.float32, bitcast=True) * tl.load(inv_loss_scale)
    if magnitude_bits(unscaled) >= FIRST_INFINITE:
        tl.atomic_xchg(found_inf_bits, 0x3F800000, sem="relaxed")  # 1.0


@triton.jit(do_not_specialize=["n"])
def norm_kernel(partial_sums, inv_loss_scale, norm, n, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for at in range(0, n, BLOCK):
        index = at + tl.arange(0, BLOCK)
        total += tl.load(partial_sums + index, mask=index < n, other=0.0)
    root = tl.sqrt(tl.sum(total, 0))
    tl.store(norm, (tl.abs(tl.load(inv_loss_scale).to(tl.float64)) * root).to(tl.float32))


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return triton_launch.why_not("inv_loss_scale", inv_loss_scale)


@torch.no_grad()
def run(norm: Tensor, grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    dense = []
    for grad in grads:
        data = in_memory_order(grad)
        dense.append(grad.contiguous() if data is None else data)
    groups = by_dtype(dense)
    if not groups:
        norm.zero_()
        return
    tables = {t: table_of([group], [g.numel() for g in group], norm.device) for t, group in groups.items()}
    partial_sums = norm.new_empty(sum(table.launches for table in tables.values()), dtype=torch.float64)
    done = 0
    for dtype, table in tables.items():
        constants = {"DTYPE": POINTED[dtype], "FIRST_INFINITE": FIRST_INFINITE[dtype]}
        constants |= {"BELOW": SQUARES_FIT_BELOW, "ABOVE": SQUARES_FIT_ABOVE, "HEADER": HEADER, "CHUNK": CHUNK, "BLOCK": BLOCK}
        args = (table.rows, table.chunks, inv_loss_scale, found_inf.view(torch.int32), partial_sums[done : done + table.launches])
        triton_launch.launch(partial_sums_kernel, table.launches, args, constants, behind=groups[dtype], num_warps=8)
        done += table.launches
    triton_launch.launch(norm_kernel, 1, (partial_sums, inv_loss_scale, norm, done), {"BLOCK": 1024})
