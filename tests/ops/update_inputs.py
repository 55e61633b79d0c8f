"""Inputs of the master-weight updates, between guard lines, and the comparison with the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mpkernels as mp
from mpkernels.formats import FP32
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


def broken_masters(masters: list[Tensor]) -> list[Tensor]:
    """Six small masters; the first all zeros, every other with a value that a copy cannot hold, or that is large but fits."""
    small = [master.clamp(-1, 1) for master in masters]
    for master, value in zip(small, (0.0, -float("inf"), float("nan"), FP32.max, -65519.0, -3.0), strict=True):
        master[65] = value
    small[0].zero_()
    return small


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


def assert_writes_amaxes(
    op: Callable[..., None], lists: list[list[Tensor]], backend: str, device: str, *args: Any, **kwargs: Any
) -> None:
    """Given param_amaxes, op writes what it does without them, and to them the amax of every parameter; or, skipping, nothing."""
    buffer = torch.full((len(lists[0]) + 2,), -77.0, device=device)
    after = run_guarded(op, lists, device, *args, **kwargs, param_amaxes=list(buffer.unbind()[1:-1]), backend=backend)
    assert_same_lists(after, run_guarded(op, lists, "cpu", *args, **kwargs, backend="reference"))
    assert buffer[0] == buffer[-1] == -77, "a kernel wrote outside its tensor"
    skips = kwargs.get("found_inf", torch.tensor(0.0)) != 0
    masters, params = after[0], after[-1]
    for amax, param in zip(buffer[1:-1], params or masters, strict=True):
        assert_matches(amax, torch.tensor(-77.0) if skips else mp.amax(param.cpu(), backend="reference"))
