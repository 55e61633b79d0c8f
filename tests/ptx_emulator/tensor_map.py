"""Tensor maps: what cuTensorMapEncodeTiled makes on the host and tensormap.replace changes on the device.

The 128 bytes are opaque on hardware; here they are 32 little-endian words of 32 bits, innermost dimension first:

    0-1    global address                   22-26  element strides
    2-9    strides in bytes of dimensions   27     element type (the numbering of PTX: TYPES)
           1 to 4, 64 bits each             28     rank - 1
    10-14  sizes in elements                29     swizzle mode (index in SWIZZLES)
    15-19  box in elements                  30     fill mode (0: zero, 1: NaN)
    20-21  swizzle atomicity (0), zero      31     interleave (0: none)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arguments import Buffer, span

BYTES = 128
LARGEST_RANK = 5
LARGEST_BOX = 256
LARGEST_ELEMENT_STRIDE = 8
LARGEST_STRIDE = 1 << 40
SWIZZLES = ("none", "32B", "64B", "128B")

# PTX ISA, tensormap.replace, .elemtype. The driver's enum differs: bf16 is 9 there, f64 8 and f32 with flush to zero 10.
TYPES = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f32.ftz", "f64", "bf16", "tf32", "tf32.ftz")
TYPE_BYTES = (1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4)
NANS = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f32.ftz": 0x7FFFFFFF, "f64": (1 << 63) - 1}
NANS |= {"tf32": 0x7FFFFFFF, "tf32.ftz": 0x7FFFFFFF}
OF_DTYPE = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "int32": "s32", "uint64": "u64", "int64": "s64"}
OF_DTYPE |= {"float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16"}
OF_SIZE = {1: "u8", 2: "u16"}  # types that TMA does not know are moved as integers: int8, the 8-bit floats, int16


@dataclass
class Fields:
    """The content of a tensor map. Lists are innermost dimension first and always have five (strides: four) entries."""

    address: int = 0
    strides: list[int] = field(default_factory=lambda: [0] * 4)
    sizes: list[int] = field(default_factory=lambda: [0] * 5)
    box: list[int] = field(default_factory=lambda: [0] * 5)
    element_strides: list[int] = field(default_factory=lambda: [0] * 5)
    type: int = 0
    rank: int = 1
    swizzle: int = 0
    fill: int = 0
    interleave: int = 0

    def pack(self) -> bytes:
        words = np.zeros(32, np.uint32)
        words[:10] = np.array([self.address, *self.strides], np.uint64).view(np.uint32)
        words[10:15], words[15:20], words[22:27] = self.sizes, self.box, self.element_strides
        words[27:] = self.type, self.rank - 1, self.swizzle, self.fill, self.interleave
        return words.tobytes()

    @staticmethod
    def unpack(data: bytes) -> Fields:
        words = np.frombuffer(data, np.uint32)
        address, *strides = (int(x) for x in words[:10].view(np.uint64))
        sizes, box, steps = ([int(x) for x in words[a : a + 5]] for a in (10, 15, 22))
        kind, rank, swizzle, fill, interleave = (int(x) for x in words[27:])
        return Fields(address, strides, sizes, box, steps, kind, rank + 1, swizzle, fill, interleave)

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return TYPE_BYTES[self.type]

    @property
    def shape(self) -> list[int]:
        """Elements that the box holds along each dimension: every element stride keeps one of so many."""
        steps = [1, *self.element_strides[1 : self.rank]]  # the innermost one is ignored
        return [-(-b // s) for b, s in zip(self.box[: self.rank], steps, strict=True)]

    @property
    def row_bytes(self) -> int:
        return self.box[0] * self.element

    @property
    def box_bytes(self) -> int:
        """What an mbarrier is told, whether the box lies in the tensor or not."""
        return int(np.prod(self.shape)) * self.element

    def problems(self) -> list[str]:
        """What the driver would refuse, or the hardware would fault on."""
        found = self._mode_problems()
        if found:
            return found
        size, sizes, box = self.element, self.sizes[: self.rank], self.box[: self.rank]
        if self.address % 16:
            found.append(f"the global address {self.address:#x} is not a multiple of 16")
        for i, n in enumerate(sizes):
            if not 1 <= n < 1 << 32:
                found.append(f"size {i} is {n}: 1 to 2**32 - 1 are allowed")
        for i, stride in enumerate(self.strides[: self.rank - 1], 1):
            if stride % 16 or not 0 <= stride < LARGEST_STRIDE:
                found.append(f"the stride of dimension {i} is {stride} bytes: it must be a multiple of 16 below 2**40")
        for i, n in enumerate(box):
            if not 1 <= n <= LARGEST_BOX:
                found.append(f"box {i} is {n} elements: 1 to {LARGEST_BOX} are allowed")
        for i, n in enumerate(self.element_strides[1 : self.rank], 1):
            if not 1 <= n <= LARGEST_ELEMENT_STRIDE:
                found.append(f"element stride {i} is {n}: 1 to {LARGEST_ELEMENT_STRIDE} are allowed")
        if self.row_bytes % 16:
            found.append(f"the inner box has {box[0]} elements of {size} bytes: {self.row_bytes} bytes are no multiple of 16")
        if self.swizzle and self.row_bytes > self.span:
            what = f"the inner box has {self.row_bytes} bytes, more than the span of the swizzle"
            found.append(f"{what} ({SWIZZLES[self.swizzle]}): split the box")
        return found

    def _mode_problems(self) -> list[str]:
        found = []
        if not 1 <= self.rank <= LARGEST_RANK:
            found.append(f"rank {self.rank}: 1 to {LARGEST_RANK} are allowed")
        if self.type >= len(TYPES):
            found.append(f"element type {self.type}: 0 to {len(TYPES) - 1} are known")
        if self.swizzle >= len(SWIZZLES):
            found.append(f"swizzle mode {self.swizzle}: 0 to {len(SWIZZLES) - 1} are known")
        if self.interleave:
            found.append(f"interleave mode {self.interleave}: only 0 (none) is supported")
        if self.fill > 1:
            found.append(f"fill mode {self.fill}: 0 (zero) and 1 (NaN) exist")
        elif self.fill and not found and TYPES[self.type] not in NANS:
            found.append(f"elements out of bounds cannot be filled with NaN in a tensor of {TYPES[self.type]}")
        return found

    @property
    def span(self) -> int:
        """The bytes within which the swizzle permutes."""
        return 16 << self.swizzle


def type_of(dtype: Any) -> str:
    """The element type TMA moves an array's elements as."""
    name = str(dtype).removeprefix("torch.")
    if name in OF_DTYPE:
        return OF_DTYPE[name]
    if dtype.itemsize not in OF_SIZE:
        raise ValueError(f"tensor map: TMA has no element type for {name}")
    return OF_SIZE[dtype.itemsize]


class TensorMap:
    """A kernel argument: 128 bytes by value (`const __grid_constant__ CUtensorMap`) that describe an array to TMA.

    Args:
        array: NumPy array, CPU tensor or Buffer. Dimensions are given as the array has them, outermost first; in the map, as
            in cuTensorMapEncodeTiled and in the coordinates of the instructions, the innermost is first.
        box: elements along each dimension.
        sizes, strides: of the array if not given; strides in bytes, the last is the size of an element.
        element_type: a name of TYPES if it is not that of the array.
        swizzle: "none", "32B", "64B" or "128B".
        oob_fill: "zero" or "nan".
        element_strides: every how manyth element of the box is kept along each dimension; the innermost is ignored.
    """

    def __init__(
        self,
        array: Any,
        box: Sequence[int],
        *,
        sizes: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        element_type: str | None = None,
        swizzle: str = "none",
        oob_fill: str = "zero",
        element_strides: Sequence[int] | None = None,
    ) -> None:
        self.array = array
        inner = array.array if isinstance(array, Buffer) else array
        sizes = list(inner.shape if sizes is None else sizes)
        strides = byte_strides(inner) if strides is None else list(strides)
        kind = element_type or type_of(inner.dtype)
        rank = len(sizes)
        steps = list(element_strides or [1] * rank)
        if not 1 <= rank <= LARGEST_RANK:
            raise ValueError(f"tensor map: rank {rank}: 1 to {LARGEST_RANK} are allowed")
        if not len(box) == len(strides) == len(steps) == rank:
            raise ValueError(
                f"tensor map: {rank} sizes, {len(strides)} strides, {len(box)} box sizes and {len(steps)} element strides"
            )
        for name, value, known in (("swizzle", swizzle, SWIZZLES), ("oob_fill", oob_fill, ("zero", "nan"))):
            if value not in known:
                raise ValueError(f"tensor map: {name} is one of {', '.join(known)}, not {value!r}")
        if kind not in TYPES:
            raise ValueError(f"tensor map: the element type is one of {', '.join(TYPES)}, not {kind!r}")
        if strides[-1] != TYPE_BYTES[TYPES.index(kind)]:
            raise ValueError(f"tensor map: the innermost dimension must be dense, its stride is {strides[-1]} bytes")
        self.fields = Fields(
            0,
            inside_out(strides[:-1], 0, 4),
            inside_out(sizes, 1),
            inside_out(box, 1),
            inside_out(steps, 1),
            TYPES.index(kind),
            rank,
            SWIZZLES.index(swizzle),
            int(oob_fill == "nan"),
        )
        self.fields.address = span(inner)[2]  # all that the checks need: a device address has the same remainder
        problems = self.fields.problems()
        if problems:
            raise ValueError("tensor map: " + "; ".join(problems))

    def arrays(self) -> Iterator[Any]:
        yield self.array

    def pack(self, address_of: Callable[[Any], int]) -> bytes:
        self.fields.address = address_of(self.array)
        return self.fields.pack()


def byte_strides(array: Any) -> list[int]:
    if hasattr(array, "untyped_storage"):
        return [s * array.element_size() for s in array.stride()]
    return list(array.strides)


def inside_out(values: Sequence[int], fill: int, length: int = LARGEST_RANK) -> list[int]:
    """Innermost dimension first, filled up."""
    return [int(v) for v in reversed(values)] + [fill] * (length - len(values))
