"""Argument checks shared by the contracts. Each raises with the argument's name, its value and what was expected.

They look at metadata only (dtype, shape, device, strides), never at values: that would synchronise a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_dtype(name: str, dtype: torch.dtype, allowed: Sequence[torch.dtype]) -> None:
    if dtype not in allowed:
        raise TypeError(f"{name} must be one of {', '.join(map(str, allowed))}, got {dtype}")


def check_scalar(name: str, scalar: Tensor, device: torch.device) -> None:
    """A scalar that lives on the data's device: float32, shape ()."""
    if not isinstance(scalar, Tensor):
        raise TypeError(f"{name} must be a float32 tensor of shape () on {device}, got {type(scalar).__name__} {scalar!r}")
    if scalar.dtype is not torch.float32 or scalar.dim() != 0:
        raise TypeError(f"{name} must be a float32 tensor of shape (), got {scalar.dtype} of shape {tuple(scalar.shape)}")
    check_device(name, scalar, device)


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like the other arguments, got {tensor.device}")


def check_k_major(name: str, operand: Tensor) -> None:
    """A matrix whose elements are adjacent along K, its last dimension: an operand of a product."""
    if operand.shape[1] > 1 and operand.stride(1) != 1:
        raise ValueError(
            f"{name} must have adjacent elements along K, its last dimension, got strides {tuple(operand.stride())}; "
            f"pass q_t of quantize(..., transpose=True) where the transpose is wanted, or {name}.contiguous()"
        )


def check_disjoint(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """The memory spans of two tensors do not overlap. Costs next to nothing unless they share a storage."""
    if torch._C._is_alias_of(tensor, other):  # type: ignore[attr-defined]  # works on fake tensors, unlike data_ptr()
        begin, end = _byte_span(tensor)
        other_begin, other_end = _byte_span(other)
        if begin < other_end and other_begin < end:
            raise ValueError(f"{name} must not overlap {other_name}: they share memory")


def _byte_span(tensor: Tensor) -> tuple[int | torch.SymInt, int | torch.SymInt]:
    """Where in its storage a tensor begins and ends."""
    begin = tensor.storage_offset()
    elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = begin + (elements if tensor.numel() else 0)
    return begin * tensor.element_size(), end * tensor.element_size()


def check_list(name: str, tensors: Sequence[Tensor], allowed: Sequence[torch.dtype], device: torch.device) -> None:
    """A list of strided tensors on one device, each of an allowed dtype (they may differ)."""
    for index, tensor in enumerate(tensors):
        if tensor.dtype in allowed and tensor.device == device and tensor.layout is torch.strided:
            continue
        check_dtype(f"{name}[{index}]", tensor.dtype, allowed)
        check_device(f"{name}[{index}]", tensor, device)
        raise TypeError(f"{name}[{index}] must be a strided tensor, got layout {tensor.layout}")


def check_writable(name: str, tensors: Sequence[Tensor]) -> None:
    """No tensor is expanded: elements that share memory would be written more than once."""
    for index, tensor in enumerate(tensors):
        if not tensor.is_contiguous() and any(st == 0 and n > 1 for n, st in zip(tensor.shape, tensor.stride(), strict=True)):
            shape, strides = tuple(tensor.shape), tensor.stride()
            raise ValueError(f"{name}[{index}] must not be expanded to be written in place, got shape {shape}, strides {strides}")


def check_number(
    name: str, number: float, *, minimum: float = -math.inf, maximum: float = math.inf, above: float = -math.inf
) -> None:
    """A finite Python number with minimum <= number <= maximum and number > above."""
    if not (minimum <= number <= maximum and number > above and math.isfinite(number)):
        wanted = "finite"
        if above != -math.inf:
            wanted += f" and > {above:g}"
        if minimum != -math.inf:
            wanted += f" and >= {minimum:g}"
        if maximum != math.inf:
            wanted += f" and <= {maximum:g}"
        raise ValueError(f"{name} must be {wanted}, got {number}")
