"""Every access of an instruction to memory: which space, whether it is allowed, what it moves, and who is told.

Handlers call load_rows / store_rows (bytes) or load / store (registers). All arrays hold one entry for each active lane.
An access that is out of bounds or misaligned is reported and dropped; the rest of the instruction goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .registers import UNSIGNED, Active
from .spaces import (
    CONST_WINDOW,
    FRESH,
    IN_FLIGHT,
    LOCAL_WINDOW,
    MAPPED,
    PARAM_WINDOW,
    READ_ONLY,
    SHARED_WINDOW,
    WINDOW_SHIFT,
    WINDOWS,
    WRITTEN,
    Arena,
    ConstantSpace,
    GlobalSpace,
    LocalSpace,
    SharedSpace,
)
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine

BASES = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW, "const": CONST_WINDOW, "global": 0}


class Memory:
    """The spaces of a launch and the checks on the way to them."""

    def __init__(
        self,
        machine: Machine,
        space: GlobalSpace,
        shared: SharedSpace,
        local: LocalSpace,
        param: ConstantSpace,
        const: ConstantSpace,
    ) -> None:
        self.machine = machine
        self.ordered = False  # the access under way is volatile, relaxed, acquire or release: no race between CTAs
        self.global_space, self.shared, self.local, self.param, self.const = space, shared, local, param, const
        self.spaces = {"global": space, "shared": shared, "local": local, "param": param, "const": const}

    # Addresses to places.

    def parts(self, space: str | None, addresses: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
        """(space, addresses in it, which of the accesses they are or None for all). Resolves generic addresses."""
        if space == "param" and int(addresses[0]) >= LOCAL_WINDOW:  # a call's parameters live in local memory
            return [("local", addresses - LOCAL_WINDOW, None)]
        if space is not None:
            return [(space, addresses, None)]
        windows = addresses >> WINDOW_SHIFT
        if (windows == windows[0]).all():
            name = WINDOWS.get(int(windows[0]), "global")
            return [(name, addresses - BASES[name], None)]
        found: list[tuple[str, np.ndarray, np.ndarray | None]] = []
        for window in np.unique(windows):
            name = WINDOWS.get(int(window), "global")
            which = windows == window
            found.append((name, addresses[which] - BASES[name], which))
        return found

    def locate(
        self, instruction: Instruction, what: str, space: str, addresses: np.ndarray, size: int, active: Active, align: int = 0
    ) -> tuple[Arena, np.ndarray, np.ndarray | None, bool]:
        """(arena, offsets in it, which accesses are good or None for all, all known to be written); reports bad ones."""
        arena = self.spaces[space]
        if space == "shared":
            offsets, bad, written = arena.locate(addresses, size, self.machine.cta_of[active.index])
        elif space == "local":
            offsets, bad, written = arena.locate(addresses, size, active.lanes)
        else:
            offsets, bad, written = arena.locate(addresses, size)
        align = align or size
        skew = addresses & (align - 1)
        crooked = None
        if skew.any():
            crooked = skew != 0 if bad is None else (skew != 0) & ~bad
            if crooked.any():
                first = int(np.argmax(crooked))
                message = f"{what} of {size} bytes at address {int(addresses[first]):#x}, which is not a multiple of {align}: "
                message += arena.describe(int(addresses[first]), size)
                self.machine.report(
                    reports.MISALIGNED, message, instruction, active.lanes[first], int(addresses[first]), int(crooked.sum())
                )
            offsets = np.where(crooked, 0, offsets)
        if bad is not None and bad.any():
            first = int(np.argmax(bad))
            message = f"{space} {what} of {arena.describe(int(addresses[first]), size)}"
            self.machine.report(
                reports.OUT_OF_BOUNDS, message, instruction, active.lanes[first], int(addresses[first]), int(bad.sum())
            )
        if bad is None or crooked is None:
            bad = crooked if bad is None else bad
        else:
            bad = bad | crooked
        if bad is None:
            return arena, offsets, None, written
        return arena, offsets, ~bad, written

    # Bytes.

    def load_rows(
        self, instruction: Instruction, space: str | None, addresses: np.ndarray, size: int, active: Active, align: int = 0
    ) -> np.ndarray:
        """(n, size) bytes read by the active lanes, with all checks."""
        parts = self.parts(space, addresses)
        result = None
        for name, where, which in parts:
            act = active if which is None else active.subset(which)
            arena, offsets, good, written = self.locate(instruction, "load", name, where, size, act, align)
            rows = arena.rows(offsets, size)
            if good is not None:
                rows[~good] = FRESH
                act, offsets = act.subset(good), offsets[good]
            if act.count:
                if not written:
                    self._check_written(instruction, arena, offsets, size, act)
                self._observe("load", instruction, arena, offsets, size, act, None)
            if which is None:
                return rows
            if result is None:
                result = np.empty((len(addresses), size), np.uint8)
            result[which] = rows
        assert result is not None
        return result

    def store_rows(
        self, instruction: Instruction, space: str | None, addresses: np.ndarray, rows: np.ndarray, active: Active, align: int = 0
    ) -> None:
        """Write (n, size) bytes, with all checks."""
        size = rows.shape[1]
        for name, where, which in self.parts(space, addresses):
            act, data = (active, rows) if which is None else (active.subset(which), rows[which])
            arena, offsets, good, _ = self.locate(instruction, "store", name, where, size, act, align)
            if isinstance(arena, ConstantSpace):
                self.machine.report(reports.OUT_OF_BOUNDS, f"store to read-only {name} memory", instruction, act.lanes[0])
                continue
            if arena is self.global_space and arena.has_read_only:
                good = self._writable(instruction, offsets, size, act, good)
            if arena is self.global_space and arena.in_flight:
                self._check_idle(instruction, offsets, size, act)
            if good is not None:
                act, offsets, data = act.subset(good), offsets[good], data[good]
            if act.count:
                self._observe("store", instruction, arena, offsets, size, act, data)
                arena.set_rows(offsets, data)
                if arena is self.global_space and self.machine.grid_races is not None:
                    self.machine.grid_races.stored(instruction, offsets, act, data)
                elif arena is self.shared:
                    self.machine.sanitizer.check_lost_stores(instruction, offsets, data, act)

    def _writable(
        self, instruction: Instruction, offsets: np.ndarray, size: int, active: Active, good: np.ndarray | None
    ) -> np.ndarray | None:
        """Drops and reports stores to arrays that are read-only on the host."""
        bad = self.global_space.lacking(offsets, size, READ_ONLY, 0)
        if bad is None:
            return good
        first = int(np.argmax(bad))
        name = self.place(self.global_space, int(offsets[first]), size).partition(" of ")[2].partition(" (")[0]
        self.machine.report(reports.OUT_OF_BOUNDS, f"store to {name}: {name} is read-only", instruction, active.lanes[first])
        return ~bad if good is None else good & ~bad

    def _check_idle(self, instruction: Instruction, offsets: np.ndarray, size: int, active: Active) -> None:
        bad = self.global_space.lacking(offsets, size, IN_FLIGHT, 0)
        if bad is not None:
            first = int(np.argmax(bad))
            place = self.place(self.global_space, int(offsets[first]), size)
            message = f"writes {place} while an asynchronous operation may still be writing it (no cp.async.bulk.wait_group "
            message += "without .read came before)"
            self.machine.report(reports.IN_FLIGHT, message, instruction, active.lanes[first], None, int(bad.sum()))

    def _check_written(self, instruction: Instruction, arena: Arena, offsets: np.ndarray, size: int, active: Active) -> None:
        ready = MAPPED | WRITTEN
        bad = arena.lacking(offsets, size, ready | IN_FLIGHT, ready)
        if bad is None:
            return
        first = int(np.argmax(bad))
        state = arena.state[offsets[first] : offsets[first] + size]
        place = self.place(arena, int(offsets[first]), size)
        if (state & IN_FLIGHT).any():
            kind, message = (
                reports.IN_FLIGHT,
                f"reads {place} while an asynchronous copy may still be writing it (no wait came before)",
            )
        else:
            kind, message = reports.UNINITIALISED, f"reads {place}, which nothing has written"
        self.machine.report(kind, message, instruction, active.lanes[first], None, int(bad.sum()))

    def _observe(
        self,
        what: str,
        instruction: Instruction,
        arena: Arena,
        offsets: np.ndarray,
        size: int,
        active: Active,
        rows: np.ndarray | None,
    ) -> None:
        machine = self.machine
        if arena is self.shared:
            machine.sanitizer.shared_access(instruction, offsets, size, active, rows)
            machine.counters.shared_access(what, offsets, size, active, instruction)
        elif arena is self.global_space:
            if machine.grid_races is not None and not self.ordered:
                machine.grid_races.access(instruction, offsets, size, active, rows)
            machine.counters.global_access(what, offsets, size, active, instruction)
        elif arena is self.local:
            machine.counters.add(f"local_{what}_bytes", size * len(offsets), instruction)

    def place(self, arena: Arena, offset: int, size: int) -> str:
        """An arena offset in words."""
        if isinstance(arena, SharedSpace):
            return arena.describe(offset % arena.stride, size)
        if isinstance(arena, LocalSpace):
            return arena.describe(offset % arena.stride, size)
        return arena.describe(offset + (BASES["global"] if not isinstance(arena, GlobalSpace) else 7 << WINDOW_SHIFT), size)

    # Registers.

    def load(
        self, instruction: Instruction, space: str | None, addresses: np.ndarray, unit: int, count: int, active: Active
    ) -> list[np.ndarray]:
        """`count` arrays of `unit`-byte unsigned integers."""
        rows = self.load_rows(instruction, space, addresses, unit * count, active)
        if unit == 16:
            return [rows[:, 16 * i : 16 * i + 16] for i in range(count)]
        values = rows.view(UNSIGNED[unit])
        return [values[:, i] for i in range(count)]

    def store(
        self, instruction: Instruction, space: str | None, addresses: np.ndarray, values: list[np.ndarray], active: Active
    ) -> None:
        """Arrays of unsigned integers of one width, side by side."""
        if len(values) == 1:
            rows = np.ascontiguousarray(values[0]).view(np.uint8).reshape(len(addresses), -1)
        else:
            rows = np.stack(values, axis=1).view(np.uint8).reshape(len(addresses), -1)
        self.store_rows(instruction, space, addresses, rows, active)
