"""Kernel arguments: arrays go by reference, everything else by value.

An array is a NumPy array or a CPU torch tensor. Its bytes are copied into the emulated global memory before the launch
and back after it, so results appear in place. Views of one buffer that overlap share one allocation; the gap around an
allocation is unmapped, so a view of a larger array is fenced as tightly as a whole one.
"""

from __future__ import annotations

import ctypes
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .spaces import GlobalSpace
from .syntax import Variable

AddressOf = Callable[[Any], int]


class Packed(Protocol):
    """An argument by value that may hold pointers to arrays: Struct, TensorMap."""

    def arrays(self) -> Iterator[Any]: ...

    def pack(self, address_of: AddressOf) -> bytes: ...


@dataclass(frozen=True)
class Buffer:
    """An array with a name for messages, and whether its bytes count as written before the launch.

    phase: its address modulo 256 on the device; None for that of its place in the memory that owns it.
    behind: the array is a table of pointers, and these are the arrays it points into. Its 8-byte words that are host
        addresses in them become device addresses for the launch; the host's table is left alone.
    part: what there is of an array too large to be copied; the phase is then the part's. Pointers to the array keep their
        distance from the part, and what lies outside of it is unmapped.
    """

    array: Any
    name: str | None = None
    initialised: bool = True
    phase: int | None = None
    behind: Sequence[Any] = ()
    part: Any = None

    @property
    def present(self) -> Any:
        return self.array if self.part is None else self.part


class Struct:
    """A C struct by value, laid out as C does. `layout` is a struct-module format; `P` takes an array (or an address).

    Struct("PPPqi", x, q, amax, rows, flags) is struct { const void* x; ...; int64_t rows; int32_t flags; }.
    Nested tuples of values are flattened.
    """

    def __init__(self, layout: str, *values: Any) -> None:
        self.layout, self.values = layout, values

    def _flat(self) -> Iterator[Any]:
        for value in self.values:
            if isinstance(value, (tuple, list)):
                yield from value
            else:
                yield value

    def arrays(self) -> Iterator[Any]:
        return (v for v in self._flat() if is_array(v))

    def pack(self, address_of: AddressOf) -> bytes:
        values = [address_of(v) if is_array(v) else 0 if v is None else v for v in self._flat()]
        largest = max((struct.calcsize("@" + c) for c in self.layout if c.isalpha() and c not in "xs"), default=1)
        data = struct.pack("@" + self.layout, *values)
        return data.ljust(-(-len(data) // largest) * largest, b"\0")  # C pads a struct to its alignment


def is_array(value: Any) -> bool:
    return isinstance(value, Buffer) or (isinstance(value, np.ndarray) and value.ndim > 0) or hasattr(value, "untyped_storage")


def span(array: Any) -> tuple[int, int, int]:
    """(host address of the first byte, bytes up to the last, address modulo 256 on a device) of an array."""
    if hasattr(array, "untyped_storage"):
        if array.device.type != "cpu":
            raise ValueError(f"tensor arguments must be on the CPU, got {array.device}")
        start = array.data_ptr()
        return start, reach(array), (start - array.untyped_storage().data_ptr()) % 256
    low, high = np.lib.array_utils.byte_bounds(array)
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    low = low if array.size else array.ctypes.data
    return low, (high - low) if array.size else 0, (low - owner.ctypes.data) % 256


def reach(tensor: Any) -> int:
    """Bytes from a tensor's first to its last.

    A matrix whose rows are filled up to multiples of 16 bytes, and so fill their storage, has the rest of its last row too.
    """
    if not tensor.numel():
        return 0
    elements = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    if tensor.dim() == 2 and tensor.storage_offset() == 0:
        (rows, columns), pitch = tensor.shape, tensor.stride(0) * tensor.element_size()
        rounded = -(-columns * tensor.element_size() // 16) * 16
        if pitch == rounded and rows * pitch == tensor.untyped_storage().nbytes():
            return rows * pitch
    return elements * tensor.element_size()


def host_bytes(start: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8) if size else np.zeros(0, np.uint8)


class DeviceArrays:
    """The arrays of a launch in emulated global memory."""

    def __init__(self, buffers: Sequence[tuple[Any, str]], variables: Sequence[tuple[Variable, np.ndarray]]) -> None:
        """`buffers`: (array or Buffer, default name); `variables`: the module's .global variables and their bytes."""
        self.parts: dict[int, int] = {}  # host address of an array -> that of the part that is there
        spans: dict[int, list] = {}  # host start -> [end, name, initialised, phase, writable]
        for value, default in buffers:
            buffer = value if isinstance(value, Buffer) else Buffer(value)
            start, size, phase = span(buffer.present)
            if buffer.part is not None:
                self.parts[span(buffer.array)[0]] = start
            phase = phase if buffer.phase is None else buffer.phase
            writable = getattr(getattr(buffer.array, "flags", None), "writeable", True)
            spans_key = start if size else -id(buffer.array)  # empty arrays have no address of their own
            old = spans.get(spans_key)
            end = start + size
            if old is None:
                spans[spans_key] = [end, buffer.name or default, buffer.initialised, phase, writable]
            else:
                spans[spans_key] = [
                    max(end, old[0]),
                    buffer.name or old[1],
                    old[2] and buffer.initialised,
                    phase,
                    old[4] or writable,
                ]
        self.ranges: list[tuple[int, int, str, bool, int, bool]] = []
        for start, (end, name, initialised, phase, writable) in sorted(spans.items()):
            if start < 0:
                self.ranges.append((start, start, name, initialised, 0, writable))
            elif self.ranges and start < self.ranges[-1][1]:
                first, last, other, was, old_phase, could = self.ranges[-1]
                self.ranges[-1] = (first, max(last, end), other, was and initialised, old_phase, could or writable)
            else:
                self.ranges.append((start, end, name, initialised, phase, writable))
        self.starts = [start for start, *_ in self.ranges]
        self.variables = variables
        wanted = [(name, end - start, initialised, phase, w) for start, end, name, initialised, phase, w in self.ranges]
        wanted += [(v.name, len(data), True, 0, True) for v, data in variables]
        self.space = GlobalSpace(wanted)
        self._each(lambda inside, host: np.copyto(inside, host), only_written=True)
        self.tables = {span(b.array)[0] for b, _ in buffers if isinstance(b, Buffer) and b.behind}
        for start in self.tables:
            self._translate(start)

    def _translate(self, table: int) -> None:
        """Host addresses in the array at host address `table` become addresses of emulated memory."""
        allocation = next(a for r, a in zip(self.ranges, self.space.allocations, strict=False) if r[0] == table)
        words = self.space.data[allocation.offset : allocation.end].view(np.int64)
        for i, word in enumerate(words):
            found = self._device_address(int(word))
            if found is not None and self.ranges[found[0]][0] != table:
                words[i] = found[1]

    def _device_address(self, host: int) -> tuple[int, int] | None:
        """(which range, the device address as a signed word) of a host address in what is there, or of an array's beginning."""
        inside = self.parts.get(host, host)
        at = self._range_of(inside)
        return None if at is None else (at, self.space.allocations[at].address + host - self.starts[at])

    def _range_of(self, host: int) -> int | None:
        """Which range holds a host address; one without bytes holds its beginning."""
        at = bisect_right(self.starts, host) - 1
        return at if at >= 0 and host < max(self.ranges[at][1], self.starts[at] + 1) else None

    def _each(self, copy: Callable[[np.ndarray, np.ndarray], None], only_written: bool) -> None:
        hosts = [(host_bytes(start, end - start), initialised) for start, end, _, initialised, _, _ in self.ranges]
        hosts += [(data, True) for _, data in self.variables]
        for (host, initialised), allocation in zip(hosts, self.space.allocations, strict=True):
            if initialised or not only_written:
                copy(self.space.data[allocation.offset : allocation.end], host)

    def address_of(self, value: Any) -> int:
        array = value.array if isinstance(value, Buffer) else value
        start, size, _ = span(array)
        found = self._device_address(start if size else -id(array))
        if found is None:
            raise KeyError("the array is not an argument of this launch")
        return found[1] % 2**64

    def variable_addresses(self) -> dict[str, int]:
        allocations = self.space.allocations[len(self.ranges) :]
        return {v.key: a.address for (v, _), a in zip(self.variables, allocations, strict=True)}

    def copy_back(self) -> None:
        def copy(inside: np.ndarray, host: np.ndarray) -> None:
            if host.size and host.ctypes.data not in self.tables and not np.array_equal(inside, host):
                np.copyto(host, inside)

        self._each(copy, only_written=False)


def value_bytes(value: Any, parameter: Variable, address_of: AddressOf) -> bytes:
    """The bytes of one argument."""
    size = parameter.size or 0
    if is_array(value):
        return address_of(value).to_bytes(8, "little")
    if hasattr(value, "pack"):
        data = value.pack(address_of)
    elif value is None:
        data = bytes(size)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
    elif isinstance(value, (np.generic, np.ndarray)):
        data = value.tobytes()
    elif isinstance(value, float):
        data = struct.pack({2: "<e", 4: "<f", 8: "<d"}[size], value)
    elif isinstance(value, int):
        data = (int(value) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
    else:
        raise TypeError(f"argument for {parameter.name}: cannot pass a {type(value).__name__} to a kernel")
    if len(data) != size:
        raise ValueError(f"argument for {parameter.name}: it has {len(data)} bytes, the kernel takes {size}")
    return data
