"""Strides: how a kernel that wants dense memory can take a tensor that is dense in another order; the rows of FP8 matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CODES_ALIGNMENT = 64  # bytes: where csrc/host/operands.h begins a second tensor in the same scratch memory

# Rows of FP8 matrices begin at multiples of this many bytes: TMA, cp.async and ldmatrix move 16 bytes from aligned addresses.
ROW_BYTES = 16


def new_fp8_matrix(x: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised FP8 matrix on x's device. Its memory is whole rows, each filled up to a multiple of ROW_BYTES.

    >>> import torch
    >>> new_fp8_matrix(torch.zeros(3), 4, 33, torch.float8_e4m3fn).stride()
    (48, 1)
    """
    pitch = -(-columns // ROW_BYTES) * ROW_BYTES
    memory = x.new_empty((rows, pitch), dtype=dtype)
    return memory if pitch == columns else memory.as_strided((rows, columns), (pitch, 1))


def has_aligned_rows(x: Tensor) -> bool:
    """Whether the rows of an FP8 matrix with adjacent columns begin at multiples of ROW_BYTES, one after the other."""
    rows, columns = x.shape
    if columns == 0:
        return True
    return (rows <= 1 or (x.stride(0) % ROW_BYTES == 0 and x.stride(0) >= columns)) and x.data_ptr() % ROW_BYTES == 0


def with_aligned_rows(x: Tensor) -> Tensor:
    """The FP8 matrix itself where it `has_aligned_rows`, else a copy that has."""
    return x if has_aligned_rows(x) else new_fp8_matrix(x, x.shape[0], x.shape[1], x.dtype).copy_(x)


def in_memory_order(x: Tensor) -> Tensor | None:
    """The view of x whose dimensions are permuted so that it is contiguous; None if its elements are not dense.

    For a transposed or channels-last tensor an elementwise pass over this is one over x, without a copy.

    >>> import torch
    >>> in_memory_order(torch.zeros(2, 3).t()).shape
    torch.Size([2, 3])
    >>> in_memory_order(torch.zeros(2, 3)[:, ::2]) is None
    True
    """
    if x.is_contiguous():
        return x
    permuted = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    return permuted if permuted.is_contiguous() else None


def dense_lists(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The tensors as contiguous ones, for an elementwise pass: views where they are dense in some order, else copies.

    Also the (tensor, copy) pairs, for a pass that writes.
    """
    dense, copies = [], []
    for tensor in tensors:
        data = in_memory_order(tensor)
        if data is None:
            data = tensor.contiguous()
            copies.append((tensor, data))
        dense.append(data)
    return dense, copies


def dense_either_way(x: Tensor) -> Tensor:
    """The tensor itself where it or, of a matrix, its transpose is contiguous; else a copy.

    >>> import torch
    >>> x = torch.zeros(4, 6)
    >>> dense_either_way(x.t()).stride(), dense_either_way(x[:, 1:4]).stride()
    ((1, 6), (3, 1))
    """
    return x if x.is_contiguous() or (x.dim() == 2 and x.t().is_contiguous()) else x.contiguous()


def as_rows(x: Tensor) -> Tensor:
    """The tensor itself where kernels can read it in place, as rows of adjacent elements at any pitch or as columns; else a copy.

    >>> import torch
    >>> x = torch.zeros(4, 6)
    >>> as_rows(x[:, 1:4]).stride(), as_rows(x.t()).stride(), as_rows(x[:, ::2]).stride()
    ((6, 1), (1, 6), (3, 1))
    """
    return x if x.is_contiguous() or (x.dim() == 2 and 1 in x.stride()) else x.contiguous()
