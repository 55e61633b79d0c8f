"""Scalar types, the register file, and the set of lanes that executes an instruction.

All threads of all resident CTAs form one NumPy axis, the lanes. A register is an array over it. A CTA's threads are
padded to whole warps (the padding never runs), so lane // 32 is the warp and the lanes of a CTA are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WARP = 32
POISON = 0xDEADBEEFDEADBEEF  # what registers hold before they are written
UNSIGNED = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}
SIGNED = {1: np.dtype(np.int8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}
FLOAT = {2: np.dtype(np.float16), 4: np.dtype(np.float32), 8: np.dtype(np.float64)}


@dataclass(frozen=True)
class ScalarType:
    """A PTX type. `kind`: u, s, f, b (bits: also packed and narrow floats, and bf16), or p (predicate)."""

    name: str
    size: int  # bytes
    kind: str
    dtype: np.dtype

    @property
    def bits(self) -> int:
        return 8 * self.size


def _types() -> dict[str, ScalarType]:
    found = {"pred": ScalarType("pred", 1, "p", np.dtype(bool)), "b128": ScalarType("b128", 16, "b", np.dtype("V16"))}
    for size in (1, 2, 4, 8):
        for kind, dtypes in (("u", UNSIGNED), ("s", SIGNED), ("b", UNSIGNED), ("f", FLOAT)):
            if size in dtypes:
                name = f"{kind}{8 * size}"
                found[name] = ScalarType(name, size, kind, dtypes[size])
    bits = {"bf16": 2, "f16x2": 4, "bf16x2": 4, "u16x2": 4, "s16x2": 4, "f32x2": 8, "tf32": 4}
    bits |= {"e4m3x2": 2, "e5m2x2": 2, "e2m3x2": 2, "e3m2x2": 2, "e2m1x2": 1, "ue8m0x2": 2}
    bits |= {"e4m3x4": 4, "e5m2x4": 4, "e2m3x4": 4, "e3m2x4": 4, "e2m1x4": 2}
    for name, size in bits.items():
        found[name] = ScalarType(name, size, "b", UNSIGNED[size])
    return found


TYPES = _types()


class Active:
    """The lanes that execute an instruction. Every form a handler may want is computed once and kept.

    where:  True, or a bool array over all lanes: the `where=` of a ufunc
    index:  slice(None), or the lane numbers: what to index a register with to get the active values
    lanes:  the lane numbers, ascending
    """

    __slots__ = ("__dict__", "count", "total", "where")

    def __init__(self, where: np.ndarray | bool, total: int, count: int) -> None:
        self.where, self.total, self.count = where, total, count

    @staticmethod
    def of(mask: np.ndarray) -> Active:
        count = int(np.count_nonzero(mask))
        return Active(True if count == mask.size else mask, mask.size, count)

    @staticmethod
    def of_lanes(lanes: np.ndarray, total: int) -> Active:
        mask = np.zeros(total, bool)
        mask[lanes] = True
        return Active.of(mask)

    @cached_property
    def mask(self) -> np.ndarray:
        return np.ones(self.total, bool) if self.where is True else self.where

    @cached_property
    def lanes(self) -> np.ndarray:
        return np.arange(self.total) if self.where is True else np.flatnonzero(self.where)

    @property
    def index(self) -> slice | np.ndarray:
        return slice(None) if self.where is True else self.lanes

    @cached_property
    def warp_of(self) -> np.ndarray:
        """The warp of each active lane."""
        return self.lanes // WARP

    @cached_property
    def warps(self) -> np.ndarray:
        """The warps with an active lane, ascending."""
        return np.arange(self.total // WARP) if self.where is True else np.unique(self.warp_of)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(row, column) of each active lane in a (len(warps), 32) matrix, or None if all warps are whole."""
        if self.count == len(self.warps) * WARP:
            return None
        return np.searchsorted(self.warps, self.warp_of), self.lanes % WARP

    def by_warp(self, values: np.ndarray, fill: int) -> np.ndarray:
        """(len(warps), 32) matrix of per-active-lane values, `fill` where a lane is not active."""
        if self.rows is None:
            return values.reshape(-1, WARP)
        matrix = np.full((len(self.warps), WARP), fill, values.dtype)
        matrix[self.rows] = values
        return matrix

    def narrow(self, predicate: np.ndarray, negated: bool = False) -> Active | None:
        """The active lanes whose guard holds; None if there are none."""
        mask = ~predicate if negated else predicate
        if self.where is not True:
            mask = mask & self.where
        count = int(np.count_nonzero(mask))
        if count == self.count:
            return self
        return Active(mask.copy() if mask is predicate else mask, self.total, count) if count else None

    def subset(self, keep: np.ndarray) -> Active:
        """The active lanes for which `keep` (one bool for each active lane) holds."""
        return Active.of_lanes(self.lanes[keep], self.total)


class Destination:
    """A register to write. `array` has the instruction's type if the register has that width, else `array` is the
    whole register as an integer of the type's sign, so that what is written is extended as PTX says.
    """

    __slots__ = ("array", "dtype", "exact")

    def __init__(self, register: np.ndarray, kind: ScalarType) -> None:
        self.dtype = kind.dtype
        self.exact = register.dtype.itemsize == kind.size
        if kind.kind == "p" or self.exact:
            self.array = register.view(kind.dtype)
        else:
            self.array = register.view((SIGNED if kind.kind == "s" else UNSIGNED)[register.dtype.itemsize])

    def _narrow(self, values: np.ndarray) -> np.ndarray:
        return values if self.exact else np.asarray(values).astype(self.dtype, copy=False)

    def write(self, values: np.ndarray, active: Active) -> None:
        """Write an array over all lanes (or a scalar) where active."""
        np.copyto(self.array, self._narrow(values), where=active.where, casting="unsafe")

    def put(self, values: np.ndarray, active: Active) -> None:
        """Write an array that has one value for each active lane."""
        self.array[active.index] = self._narrow(values)


class Discard(Destination):
    """The sink `_`."""

    def __init__(self, kind: ScalarType, lanes: int) -> None:
        super().__init__(np.zeros(lanes, bool if kind.kind == "p" else UNSIGNED[kind.size]), kind)


class RegisterFile:
    """The registers of all lanes."""

    def __init__(self, declared: dict[str, str], lanes: int) -> None:
        self.lanes = lanes
        self.arrays: dict[str, np.ndarray] = {}
        for key, kind in declared.items():
            size = TYPES[kind].size
            shape = (lanes, 2) if size == 16 else (lanes,)
            self.arrays[key] = np.empty(shape, bool if kind == "pred" else UNSIGNED[min(size, 8)])
        self.reset()

    def reset(self) -> None:
        for array in self.arrays.values():
            array[...] = False if array.dtype == bool else array.dtype.type(POISON & ((1 << (8 * array.dtype.itemsize)) - 1))

    def view(self, key: str, kind: ScalarType) -> np.ndarray:
        """A live view of a register, as a type. A narrower type sees the low bytes."""
        array = self.arrays[key]
        if kind.kind == "p" or array.dtype == bool:
            if (kind.kind == "p") != (array.dtype == bool):
                raise TypeError(
                    f"register {key} is {'a' if array.dtype == bool else 'not a'} predicate, the instruction reads {kind.name}"
                )
            return array
        if array.ndim == 2:
            if kind.size != 16:
                raise TypeError(f"register {key} has 128 bits, the instruction reads {kind.name}")
            return array
        if kind.size > array.dtype.itemsize:
            raise TypeError(f"register {key} has {8 * array.dtype.itemsize} bits, the instruction reads {kind.name}")
        return array.view(kind.dtype)[:: array.dtype.itemsize // kind.size]
