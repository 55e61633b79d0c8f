"""Triton kernel: one launch for each dtype in the list, one program for each chunk of a tensor."""

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

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")
BLOCK = 2048  # 16 bytes of bf16 for each of 256 threads


@triton.jit(do_not_specialize_on_alignment=["rows", "chunks"])
def unscale_kernel(
    rows,
    chunks,
    inv_loss_scale,
    found_inf_bits,
    DTYPE: tl.constexpr,
    FIRST_INFINITE: tl.constexpr,
    HEADER: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """FIRST_INFINITE: the bits of the least float32 magnitude that DTYPE rounds to Inf."""
    chunk = tl.program_id(0)
    row = rows + tl.load(chunks + chunk) * (HEADER + 1)
    n, first = tl.load(row), tl.load(row + 1)
    grad = tl.load(row + HEADER).to(tl.pointer_type(DTYPE))
    factor = tl.load(inv_loss_scale)
    start = (chunk - first) * CHUNK
    largest = tl.zeros((BLOCK,), tl.int32)
    if (tl.load(row + 2) != 0) & (start + CHUNK <= n):
        grad = tl.multiple_of(grad, 16)
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            product = tl.load(grad + index).to(tl.float32) * factor
            tl.store(grad + index, product.to(DTYPE))
            largest = tl.maximum(largest, magnitude_bits(product))
    else:
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            product = tl.load(grad + index, mask=index < n, other=0.0).to(tl.float32) * factor
            tl.store(grad + index, product.to(DTYPE), mask=index < n)
            largest = tl.maximum(largest, tl.where(index < n, magnitude_bits(product), 0))
    if tl.max(largest, 0) >= FIRST_INFINITE:
        tl.atomic_xchg(found_inf_bits, 0x3F800000, sem="relaxed")  # 1.0


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return triton_launch.why_not("inv_loss_scale", inv_loss_scale)


@torch.no_grad()
def run(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    dense, copies = [], []
    for grad in grads:
        data = in_memory_order(grad)
        if data is None:
            data = grad.contiguous()
            copies.append((grad, data))
        dense.append(data)
    for dtype, group in by_dtype(dense).items():
        table = table_of([group], [g.numel() for g in group], inv_loss_scale.device)
        constants = {"DTYPE": POINTED[dtype], "FIRST_INFINITE": FIRST_INFINITE[dtype], "HEADER": HEADER}
        constants |= {"CHUNK": CHUNK, "BLOCK": BLOCK}
        triton_launch.launch(
            unscale_kernel,
            table.launches,
            (table.rows, table.chunks, inv_loss_scale, found_inf.view(torch.int32)),
            constants,
            behind=group,
            num_warps=8,
        )
    for grad, data in copies:
        grad.copy_(data)


def by_dtype(tensors: Sequence[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    """Those that have elements, by dtype."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            groups.setdefault(tensor.dtype, []).append(tensor)
    return groups
