"""Inputs of the master-weight updates, between guard lines, and the comparison with the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpkernels.testing import assert_matches, special_values

GUARD = 16  # elements on each side of every tensor
GRAD_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COPY_DTYPES = (None, torch.bfloat16, torch.float16)
SHAPES = [(0,), (1,), (31,), (5, 13), (3, 1, 7), (), (1000,), (130, 131)]  # the last one is cut into several chunks


def randn(shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def specials(dtype: torch.dtype, *, shift: int) -> Tensor:
    """The special values in another order for each shift, so that the operands of an update meet in many pairs."""
    return special_values(dtype).repeat(8).roll(shift)


def steps_of(counts: list[float]) -> list[Tensor]:
    return [torch.tensor(float(count)) for count in counts]


class Guarded:
    """A copy of a dense tensor in memory of its own, with guard elements before and after it."""

    def __init__(self, tensor: Tensor, device: str) -> None:
        self.buffer = torch.full((tensor.numel() + 2 * GUARD,), -77.0, dtype=tensor.dtype, device=device)
        self.tensor = self.buffer.as_strided(tensor.shape, tensor.stride(), GUARD)
        self.tensor.copy_(tensor)

    def assert_whole(self) -> None:
        for side in (self.buffer[:GUARD], self.buffer[-GUARD:]):
            assert (side == -77).all(), "a kernel wrote outside its tensor"


def run_guarded(op: Callable[..., None], lists: list[list[Tensor]], device: str, *args: Any, **kwargs: Any) -> list[list[Tensor]]:
    """Calls op on guarded copies of the lists that it writes (all but the last, the gradients) and returns the copies."""
    guarded = [[Guarded(tensor, device) for tensor in tensors] for tensors in lists[:-1]]
    grads = [grad.to(device) for grad in lists[-1]]
    before = [grad.clone() for grad in grads]
    kwargs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    op(*([g.tensor for g in tensors] for tensors in guarded), grads, *args, **kwargs)
    for tensors in guarded:
        for tensor in tensors:
            tensor.assert_whole()
    for grad, unchanged in zip(grads, before, strict=True):
        assert_matches(grad, unchanged)
    return [[g.tensor for g in tensors] for tensors in guarded]


def assert_same_lists(actual: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    """Every tensor of every list has the same bytes."""
    for got, wanted in zip(actual, expected, strict=True):
        for a, b in zip(got, wanted, strict=True):
            assert a.stride() == b.stride()
            assert_matches(a, b)


def assert_equals_definition(
    op: Callable[..., None], lists: list[list[Tensor]], backend: str, device: str, *args: Any, **kwargs: Any
) -> list[list[Tensor]]:
    """Runs op and its reference on copies of the lists; every tensor must come out with the same bytes. Returns op's."""
    actual = run_guarded(op, lists, device, *args, backend=backend, **kwargs)
    assert_same_lists(actual, run_guarded(op, lists, "cpu", *args, backend="reference", **kwargs))
    return actual
