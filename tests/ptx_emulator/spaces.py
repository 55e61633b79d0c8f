"""The state spaces: bytes, and for each byte whether it may be touched (MAPPED), holds a value (WRITTEN) or is being
written (WRITING) or added to (REDUCING) by an asynchronous operation, or belongs to the host for good (READ_ONLY).

Every space starts with a few bytes that no address maps to; accesses that were reported are redirected there.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from .registers import UNSIGNED

MAPPED, WRITTEN, WRITING, READ_ONLY, REDUCING = 1, 2, 4, 8, 16
IN_FLIGHT = WRITING | REDUCING
FRESH = 0xCD  # what memory holds before it is written, and what a faulty load returns

# Generic addresses: the top bits name the window.
WINDOW_SHIFT = 44
SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW, CONST_WINDOW, GLOBAL_WINDOW = (n << WINDOW_SHIFT for n in (1, 2, 3, 4, 7))
WINDOWS = {1: "shared", 2: "local", 3: "param", 4: "const", 7: "global"}

# A shared address is rank << 24 | offset: the CTA's rank in its cluster, then the place in its memory. Offsets start
# at 1024, as on sm_90 and later where the system owns the first kilobyte: address 0 is never valid.
RANK_SHIFT = 24
SHARED_BASE = 1024
PRIVATE_BASE = 64  # local, param and const addresses start here
GUARD = 1 << 16  # least unmapped bytes after a global allocation; it is as large as the allocation if that is larger


def repeated(byte: int, size: int) -> int:
    """`byte` in each of `size` bytes."""
    return byte * (((1 << (8 * size)) - 1) // 255)


def sparse_zeros(count: int, dtype: type[np.generic]) -> np.ndarray:
    """np.zeros in small pages. From 4 MB on NumPy asks for huge ones, where each touched byte costs 2 MB and gaps are no gaps."""
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count)


class Arena:
    """Bytes and their states. Offsets are non-negative and aligned to the size of the access."""

    def __init__(self, size: int) -> None:
        size = (size + 63) // 64 * 64 + 64
        self.data = sparse_zeros(size, np.uint8)
        self.state = sparse_zeros(size, np.uint8)

    @property
    def size(self) -> int:
        return self.data.size

    def rows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """(n, size) bytes."""
        if size <= 8:
            return self.data.view(UNSIGNED[size])[offsets // size].view(np.uint8).reshape(-1, size)
        return self.data.reshape(-1, 16)[offsets // 16] if size == 16 else self._wide(self.data, offsets, size)

    def set_rows(self, offsets: np.ndarray, rows: np.ndarray) -> None:
        """Write (n, size) bytes and mark them WRITTEN."""
        size = rows.shape[1]
        if size <= 8:
            index = offsets // size
            self.data.view(UNSIGNED[size])[index] = np.ascontiguousarray(rows).view(UNSIGNED[size])[:, 0]
        else:
            index = (offsets[:, None] + np.arange(0, size, 16)) // 16
            self.data.reshape(-1, 16)[index] = rows.reshape(len(rows), -1, 16)
        self.set_state(offsets, size, MAPPED | WRITTEN)

    def set_state(self, offsets: np.ndarray, size: int, state: int) -> None:
        unit = min(size, 8)
        view = self.state.view(UNSIGNED[unit])
        value = UNSIGNED[unit].type(repeated(state, unit))
        for part in range(0, size, unit):
            view[(offsets + part) // unit] = value

    def lacking(self, offsets: np.ndarray, size: int, bits: int, wanted: int) -> np.ndarray | None:
        """Which accesses have a byte whose state & bits is not `wanted`; None if there is none."""
        unit = min(size, 8)
        view = self.state.view(UNSIGNED[unit])
        mask, value = (UNSIGNED[unit].type(repeated(b, unit)) for b in (bits, wanted))
        bad = (view[offsets // unit] & mask) != value
        for part in range(unit, size, unit):
            bad |= (view[(offsets + part) // unit] & mask) != value
        return bad if bad.any() else None

    @staticmethod
    def _wide(array: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
        index = (offsets[:, None] + np.arange(0, size, 16)) // 16
        return array.reshape(-1, 16)[index].reshape(len(offsets), size)


@dataclass
class Allocation:
    """A named range of global memory. `whole` while every byte of it is known to be written."""

    name: str
    offset: int
    size: int
    whole: bool
    writable: bool = True

    @property
    def address(self) -> int:
        return GLOBAL_WINDOW + self.offset

    @property
    def end(self) -> int:
        return self.offset + self.size


class GlobalSpace(Arena):
    """Allocations in ascending order with unmapped gaps between them."""

    name = "global"

    def __init__(self, wanted: list[tuple[str, int, bool, int, bool]]) -> None:
        """`wanted`: (name, bytes, initialised, address modulo 256, writable) of each allocation."""
        self.allocations: list[Allocation] = []
        top = GUARD
        for name, size, initialised, phase, writable in wanted:
            offset = (top + 255) // 256 * 256 + phase
            self.allocations.append(Allocation(name, offset, size, initialised, writable))
            top = offset + size + max(GUARD, size)  # untouched pages cost nothing
        super().__init__(top)
        self.has_read_only = not all(a.writable for a in self.allocations)
        self.in_flight = 0  # asynchronous writes and reductions that nothing has waited for
        self.reductions: np.ndarray | None = None  # for each byte, those in flight
        self.starts = [a.offset for a in self.allocations]
        for each in self.allocations:
            self.state[each.offset : each.end] = MAPPED | (WRITTEN if each.whole else 0) | (0 if each.writable else READ_ONLY)
            if not each.whole:
                self.data[each.offset : each.end] = FRESH

    def begin_async_write(self, index: np.ndarray, reduces: bool) -> None:
        """An asynchronous operation may write these bytes from now on, or add to them as other reductions do."""
        if not index.size:
            return
        first, last = int(index.min()), int(index.max())
        for each in self.allocations[bisect_right(self.starts, first) - 1 : bisect_right(self.starts, last)]:
            each.whole = False
        self.in_flight += 1
        if not reduces:
            self.state[index] = MAPPED | WRITTEN | WRITING
            return
        if self.reductions is None:
            self.reductions = sparse_zeros(self.size, np.uint16)
        self.reductions[index] += np.uint16(1)
        self.state[index] |= REDUCING

    def end_async_write(self, index: np.ndarray, reduces: bool) -> None:
        """The operation is known to be complete."""
        if not index.size:
            return
        self.in_flight -= 1
        if not reduces:
            self.state[index] = MAPPED | WRITTEN
            return
        assert self.reductions is not None
        self.reductions[index] -= np.uint16(1)
        self.state[index[self.reductions[index] == 0]] &= np.uint8(255 - REDUCING)

    def locate(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """(offsets, which are out of bounds or None, whether all bytes are known to be written)."""
        offsets = addresses - GLOBAL_WINDOW
        low, high = int(offsets.min()), int(offsets.max()) + size
        at = bisect_right(self.starts, low) - 1
        if at >= 0 and high <= self.allocations[at].end:
            return offsets, None, self.allocations[at].whole
        bad = (offsets < 0) | (offsets > self.size - size)
        safe = np.where(bad, 0, offsets)
        unmapped = self.lacking(safe, size, MAPPED, MAPPED)
        return safe, bad if unmapped is None else bad | unmapped, False

    def describe(self, address: int, size: int) -> str:
        """Where an address lies, relative to the nearest allocation."""
        offset = address - GLOBAL_WINDOW
        if not self.allocations:
            return f"{size} bytes at {address:#x}; nothing is allocated"
        if not 0 <= offset < self.size:
            return f"{size} bytes at {address:#x}, which is not near any allocation"
        near = min(self.allocations, key=lambda a: max(a.offset - offset, offset - a.end, 0))
        if near.offset <= offset < near.end:
            past = offset + size - near.end
            what = f", of which the last {past} lie past its end" if past > 0 else ""
            return f"{size} bytes at byte {offset - near.offset} of {near.name} ({near.size} bytes){what}"
        side = f"{near.offset - offset} bytes before" if offset < near.offset else f"{offset - near.end} bytes past the end of"
        return f"{size} bytes at {address:#x}, {side} {near.name} ({near.size} bytes)"


class SharedSpace(Arena):
    """The shared memory of the resident CTAs, each with an unmapped gap before and after it."""

    name = "shared"

    def __init__(self, ctas: int, size: int, cluster_size: int, names: list[tuple[str, int, int]]) -> None:
        """`names`: (name, first offset, bytes) of the variables."""
        self.bytes = size
        self.cluster_size = cluster_size
        self.swizzle: np.ndarray | None = None  # of each 16 bytes that TMA wrote last, its swizzle mode; made by TMA
        self.stride = (SHARED_BASE + size + 1023) // 1024 * 1024  # the next CTA's first kilobyte is the gap after this one
        self.names = names
        super().__init__(ctas * self.stride)
        self.ctas = ctas
        self.reset()

    def note_swizzle(self, offsets: np.ndarray, mode: int) -> None:
        """TMA is to write 16 bytes at each offset, permuted in this mode (0 none, 1 to 3: 32, 64, 128 bytes)."""
        if self.swizzle is None:
            self.swizzle = np.zeros(self.size // 16, np.uint8)
        self.swizzle[offsets // 16] = mode

    def reset(self) -> None:
        self.data[:] = FRESH
        self.state[:] = 0
        for cta in range(self.ctas):
            start = cta * self.stride + SHARED_BASE
            self.state[start : start + self.bytes] = MAPPED

    def locate(self, addresses: np.ndarray, size: int, cta_of: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """`cta_of`: the resident CTA of each access."""
        if self.cluster_size == 1:
            offset, cta, bad_rank = addresses, cta_of, None
        else:
            rank = addresses >> RANK_SHIFT
            offset = addresses & ((1 << RANK_SHIFT) - 1)
            bad_rank = rank >= self.cluster_size
            cta = cta_of - cta_of % self.cluster_size + np.where(bad_rank, 0, rank)
        flat = cta * self.stride + offset
        if bad_rank is None or not bad_rank.any():
            if int(offset.min()) >= SHARED_BASE and int(offset.max()) + size <= SHARED_BASE + self.bytes:
                return flat, None, False
            bad_rank = np.zeros(len(flat), bool)
        bad = bad_rank | (offset < SHARED_BASE) | (offset + size > SHARED_BASE + self.bytes)
        return np.where(bad, 0, flat), bad, False

    def describe(self, address: int, size: int) -> str:
        offset = address & ((1 << RANK_SHIFT) - 1)
        place = offset - SHARED_BASE
        for name, start, length in self.names:
            if start <= offset < start + length:
                past = offset + size - start - length
                what = f", of which the last {past} lie past its end" if past > 0 else ""
                return f"{size} bytes at byte {offset - start} of shared {name} ({length} bytes){what}"
        return f"{size} bytes at byte {place} of the CTA's shared memory, which has {self.bytes} bytes"


class LocalSpace(Arena):
    """Each lane's private memory: the same addresses mean other bytes in every lane."""

    name = "local"

    def __init__(self, lanes: int, size: int) -> None:
        self.bytes = size
        self.stride = (PRIVATE_BASE + size + 63) // 64 * 64
        self.lanes = lanes
        super().__init__(lanes * self.stride if size else 0)
        self.reset()

    def reset(self) -> None:
        if self.bytes:
            rows = self.state[: self.lanes * self.stride].reshape(self.lanes, self.stride)
            rows[:] = 0
            rows[:, PRIVATE_BASE : PRIVATE_BASE + self.bytes] = MAPPED

    def locate(self, addresses: np.ndarray, size: int, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
        flat = lanes * self.stride + addresses
        if int(addresses.min()) >= PRIVATE_BASE and int(addresses.max()) + size <= PRIVATE_BASE + self.bytes:
            return flat, None, False
        bad = (addresses < PRIVATE_BASE) | (addresses + size > PRIVATE_BASE + self.bytes)
        return np.where(bad, 0, flat), bad, False

    def describe(self, address: int, size: int) -> str:
        return f"{size} bytes at byte {address - PRIVATE_BASE} of the thread's local memory, which has {self.bytes} bytes"


class ConstantSpace(Arena):
    """Read-only memory that all threads see: kernel parameters, or .const variables."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(PRIVATE_BASE + len(content))
        self.name = name
        self.bytes = len(content)
        end = PRIVATE_BASE + len(content)
        self.data[PRIVATE_BASE:end] = np.frombuffer(content, np.uint8)
        self.state[PRIVATE_BASE:end] = MAPPED | WRITTEN

    def locate(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray | None, bool]:
        if int(addresses.min()) >= PRIVATE_BASE and int(addresses.max()) + size <= PRIVATE_BASE + self.bytes:
            return addresses, None, True
        bad = (addresses < PRIVATE_BASE) | (addresses + size > PRIVATE_BASE + self.bytes)
        return np.where(bad, 0, addresses), bad, True

    def describe(self, address: int, size: int) -> str:
        return f"{size} bytes at byte {address - PRIVATE_BASE} of the {self.name} memory, which has {self.bytes} bytes"
