"""cp.async, its groups, and cp.async.mbarrier.arrive: copies from global to shared memory, thread by thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reports
from ..asynchrony import CHANCE, Engine, Operation
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..registers import TYPES, WARP, Active
from ..spaces import FRESH
from ..syntax import Instruction

ENGINE = "cp.async"


@dataclass
class Copies:
    """The copies one instruction started, one for each lane; lanes complete on their own."""

    instruction: Instruction
    lanes: np.ndarray
    group: np.ndarray  # the number of the group each belongs to, counted by its thread
    offsets: np.ndarray  # in the shared arena
    rows: np.ndarray  # (n, size) bytes, read from global memory when performed
    sources: np.ndarray  # offsets in the global arena, -1: nothing to read
    valid: np.ndarray  # bytes to read; the rest is zero
    performed: np.ndarray

    @property
    def size(self) -> int:
        return self.rows.shape[1]

    def part(self, which: np.ndarray) -> Copies:
        if which.all():
            return self
        fields = (self.lanes, self.group, self.offsets, self.rows, self.sources, self.valid, self.performed)
        return Copies(self.instruction, *[f[which] for f in fields])


class CopyEngine(Engine):
    """Copies wait in `pending` until their thread waits for their group."""

    def __init__(self, name: str, completion: str, rng: np.random.Generator) -> None:
        super().__init__(name, completion, rng)
        self.pending: list[Copies] = []
        self.committed: np.ndarray | None = None  # groups each thread has committed
        self.machine: Machine | None = None

    def attach(self, machine: Machine) -> CopyEngine:
        if self.machine is None:
            self.machine = machine
            self.committed = np.zeros(machine.lanes, np.int64)
        return self

    def start(self, copies: Copies) -> None:
        self.pending.append(copies)
        if self.completion == "early":
            self.perform(copies, np.ones(len(copies.lanes), bool))

    def perform(self, copies: Copies, which: np.ndarray) -> None:
        """Move the bytes."""
        which = which & ~copies.performed
        if not which.any():
            return
        assert self.machine is not None
        memory = self.machine.memory
        columns = np.arange(copies.size)
        inside = columns < copies.valid[which, None]
        where = np.where(inside, copies.sources[which, None] + columns, 0)
        rows = np.where(inside, memory.global_space.data[where], np.uint8(0))
        shared = memory.shared
        index = copies.offsets[which, None] + columns
        shared.data[index] = rows
        copies.performed |= which

    def wait(self, active: Active, newest_left: int) -> None:
        """The active threads wait until at most `newest_left` of their groups are pending; -1: for everything."""
        assert self.machine is not None
        assert self.committed is not None
        limit = np.full(self.machine.lanes, -1, np.int64)
        limit[active.lanes] = np.iinfo(np.int64).max if newest_left < 0 else self.committed[active.lanes] - newest_left
        for copies in self.take(limit):
            self.perform(copies, np.ones(len(copies.lanes), bool))
            sanitizer = self.machine.sanitizer
            agents = sanitizer.agent_of_warp[copies.lanes // WARP]
            sanitizer.end_async_write(copies.instruction, copies.offsets, copies.size, agents, lanes=copies.lanes)

    def take(self, limit: np.ndarray) -> list[Copies]:
        """Take each lane's copies of groups below limit[lane] off the list: somebody knows when they complete."""
        taken, left = [], []
        for copies in self.pending:
            done = copies.group < limit[copies.lanes]
            if done.any():
                taken.append(copies.part(done))
            if not done.all():
                left.append(copies.part(~done))
        self.pending = left
        return taken

    def tick(self) -> None:
        if self.completion == "random":
            for copies in self.pending:
                if not copies.performed.all():
                    self.perform(copies, self.rng.random(len(copies.lanes)) < CHANCE)

    def progress(self) -> bool:
        for copies in self.pending:
            if not copies.performed.all():
                self.perform(copies, np.ones(len(copies.lanes), bool))
                return True
        return False

    def unfinished(self) -> list[Operation]:
        return [Operation(c.instruction, lambda: None) for c in self.pending]


def engine(machine: Machine) -> CopyEngine:
    found = machine.engines.get(ENGINE, CopyEngine)
    assert isinstance(found, CopyEngine)
    return found.attach(machine)


@instruction("cp.async.ca", "cp.async.cg")
def copy(b: Binding) -> Step:
    """cp.async.ca.shared.global [dst], [src], size{, src-size}: bytes beyond src-size are zero."""
    for word in ("shared::cta", "shared", "global"):
        b.flag(word)
    b.ignore("L2::cache_hint", "L2::64B", "L2::128B", "L2::256B")
    size = b.constant(2)
    if size not in (4, 8, 16) or (b.instruction.modifiers[1] == "cg" and size != 16):
        b.fail(f"cannot copy {size} bytes")
    target, source = b.address(0), b.address(1)
    ignored = None
    valid: Any = np.uint32(size)
    if len(b.operands) > 3 and "cache_hint" not in b.instruction.name:
        operand = b.operand(3)
        if getattr(operand, "type", "") == "pred":
            ignored = b.predicate(3)
        else:
            valid = b.source(3, TYPES["u32"])
    machine, instr = b.machine, b.instruction

    def run(active: Active) -> None:
        memory = machine.memory
        arena, offsets, good, _ = memory.locate(instr, "cp.async store", "shared", target(active), size, active)
        count = b.compact(valid, active).astype(np.int64)
        if ignored is not None:
            count = np.where(b.compact(ignored(), active), 0, size)
        if (count > size).any():
            machine.report(
                reports.OUT_OF_BOUNDS, f"src-size {int(count.max())} is larger than cp-size {size}", instr, active.lanes[0]
            )
            count = np.minimum(count, size)
        addresses = source(active)
        act = active
        if good is not None:
            act, offsets, count, addresses = active.subset(good), offsets[good], count[good], addresses[good]
        if not act.count:
            return
        sources = check_sources(machine, instr, addresses, count, size, act)
        machine.counters.shared_access("store", offsets, size, act, instr)
        clocks = machine.sanitizer.clock
        machine.sanitizer.begin_async_write(instr, offsets, size, act, clocks, act.warp_of)
        arena.data[offsets[:, None] + np.arange(size)] = FRESH
        copies = engine(machine)
        assert copies.committed is not None
        n = act.count
        rows = np.zeros((n, size), np.uint8)
        copies.start(
            Copies(instr, act.lanes, copies.committed[act.lanes].copy(), offsets, rows, sources, count, np.zeros(n, bool))
        )

    return run


def check_sources(
    machine: Machine, instr: Instruction, addresses: np.ndarray, count: np.ndarray, size: int, active: Active
) -> np.ndarray:
    """Offsets in global memory of the bytes that will be read. Lanes that read nothing may hold any address."""
    sources = np.full(len(addresses), -1, np.int64)
    memory = machine.memory
    for length in np.unique(count[count > 0]):
        chosen = count == length
        part = active if chosen.all() else active.subset(chosen)
        # The hardware wants the alignment of the whole copy; bytes beyond src-size are not touched.
        where = addresses[chosen]
        arena, offsets, good, written = memory.locate(instr, "cp.async load", "global", where, int(length), part, size)
        if good is not None:
            offsets = np.where(good, offsets, 0)
        elif not written:
            whole = int(length) == size
            bad = arena.lacking(offsets, size, 3, 3) if whole else None
            if bad is not None:
                at = int(np.argmax(bad))
                message = f"copies {memory.place(arena, int(offsets[at]), size)}, which nothing has written"
                machine.report(reports.UNINITIALISED, message, instr, part.lanes[at])
        sources[chosen] = offsets
        if machine.grid_races is not None:
            machine.grid_races.access(instr, offsets, int(length), part, None)
        machine.counters.global_access("load", offsets, int(length), part, instr)
    return sources


@instruction("cp.async.commit_group")
def commit(b: Binding) -> Step:
    def run(active: Active) -> None:
        committed = engine(b.machine).committed
        assert committed is not None
        committed[active.index] += 1

    return run


@instruction("cp.async.wait_group", "cp.async.wait_all")
def wait(b: Binding) -> Step:
    left = -1 if b.instruction.modifiers[1] == "wait_all" else b.constant(0)
    return lambda active: engine(b.machine).wait(active, left)
