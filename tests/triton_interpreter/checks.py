"""What the interpreter does not look at: accesses outside of the tensors, false hints, programs that write over each other.

Hints (`tl.multiple_of`) become wide accesses on a GPU and nothing at all in the interpreter, so a false one passes every test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from ptx_emulator.arguments import reach
from triton.runtime import interpreter


class AccessError(AssertionError):
    """A kernel did what would be undefined on a GPU."""


class Watch:
    """The tensors of the launch under way, and what its programs have written."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        extents = united({extent(t) for t in tensors if t.numel()})
        self.begins, self.ends = np.array(extents, np.uint64).reshape(-1, 2).T.copy()
        self.written: list[tuple[np.ndarray, np.ndarray, int]] = []

    def access(self, what: str, addresses: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
        """The addresses that are accessed."""
        addresses, mask = np.broadcast_arrays(addresses, mask)
        used = addresses[mask.astype(bool)].astype(np.uint64).ravel()
        if not used.size:
            return used
        ends = np.concatenate([np.zeros(1, np.uint64), self.ends])  # the first is of what lies before every tensor
        inside = used + np.uint64(size) <= ends[np.searchsorted(self.begins, used, side="right")]
        if not inside.all():
            program = interpreter.interpreter_builder.grid_idx
            raise AccessError(f"{what} outside of the tensors: {(~inside).sum()} of {used.size} lanes of program {program}")
        return used

    def write(self, addresses: np.ndarray, data: np.ndarray) -> None:
        x, y, z = interpreter.interpreter_builder.grid_idx
        self.written.append((addresses, data, (x << 40) + (y << 20) + z))

    def look_for_races(self) -> None:
        """Different values written to one address by different programs: which one stays is chance."""
        if not self.written:
            return
        addresses, data = (np.concatenate([w[i] for w in self.written]) for i in (0, 1))
        programs = np.concatenate([np.full(a.shape, p, np.int64) for a, _, p in self.written])
        order = np.argsort(addresses, kind="stable")
        changes = [np.diff(x[order].astype(np.int64)) != 0 for x in (addresses, data, programs)]
        racing = ~changes[0] & changes[1] & changes[2]
        if racing.any():
            raise AccessError(f"{racing.sum()} addresses are written with different values by different programs")


watched: list[Watch] = []


@contextmanager
def watch(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    watched.append(Watch(tensors))
    try:
        yield
        watched[-1].look_for_races()
    finally:
        watched.pop()


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + reach(tensor)


def united(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, those that overlap as one. Neighbours stay two: no access may reach from the one into the other."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(extents):
        if found and begin < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def check_hint(tensor: Any, hint: Any, name: str) -> Any:
    """multiple_of, max_contiguous and max_constancy of the last dimension."""
    wanted = [getattr(v, "value", v) for v in (hint if isinstance(hint, (list, tuple)) else [hint])][-1]
    rows = np.atleast_1d(tensor.handle.data).astype(np.int64)
    if name == "tt.divisibility":
        true = int(rows.flat[0]) % wanted == 0
    else:
        groups = rows.reshape(-1, min(wanted, rows.shape[-1]))
        true = bool((np.diff(groups, axis=-1) == (name == "tt.contiguity")).all())
    if not true:
        raise AccessError(f"false hint {name} = {wanted}: the first value is {int(rows.flat[0])}")
    return tensor


def install() -> None:
    builder = interpreter.InterpreterBuilder
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        watched[-1].access("load", pointers.data, mask.data, size)
        return load(self, pointers, mask, *rest, **named)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        size = value.data.dtype.itemsize
        addresses = watched[-1].access("store", pointers.data, mask.data, size)
        data = np.broadcast_to(value.data, np.broadcast_shapes(value.data.shape, pointers.data.shape))
        data = np.ascontiguousarray(data[np.broadcast_to(mask.data, data.shape).astype(bool)])
        watched[-1].write(addresses, data.view(f"u{size}").astype(np.uint64).ravel())
        return store(self, pointers, value, mask, *rest, **named)

    def checked_atomic(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watched[-1].access("atomic", pointers.data, mask.data, value.data.dtype.itemsize)
        return atomic(self, operation, pointers, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw = (
        checked_load,
        checked_store,
        checked_atomic,
    )
    patch = interpreter._patch_lang_core

    def patched(language: Any, scope: Any) -> None:
        patch(language, scope)
        for function, name in (("multiple_of", "divisibility"), ("max_contiguous", "contiguity"), ("max_constancy", "constancy")):
            scope.set_attr(language, function, partial(check_hint, name=f"tt.{name}"))

    interpreter._patch_lang_core = patched
