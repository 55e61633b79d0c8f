"""Strides: how a kernel that wants dense memory can take a tensor that is dense in another order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

CODES_ALIGNMENT = 64  # bytes: where csrc/host/operands.h begins a second tensor in the same scratch memory


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
