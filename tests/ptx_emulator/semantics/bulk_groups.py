"""Bulk operations: how one runs, and cp.async.bulk.commit_group and wait_group, for the copies that no mbarrier tells of.

What an operation writes to shared memory is announced on an mbarrier (`deliver`). What it writes to global memory the
issuing thread waits for, by groups (`send`): after wait_group.read the operations have read their sources, so that
these may be written again; after wait_group what they wrote can be read. An operation that only wait_group.read has been
called for may go on after the kernel has ended, but it must not read shared memory that is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import reports
from ..asynchrony import Engine, Operation
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..registers import WARP, Active
from ..remote import touch_by_agent
from ..shared_claims import shared_claims
from ..spaces import FRESH, IN_FLIGHT, MAPPED, RANK_SHIFT, READ_ONLY, WINDOW_SHIFT, WRITING, WRITTEN
from ..syntax import Instruction
from .mbarrier import complete_tx, deliver_to, expect_completion, mbarriers

CHUNK = 16  # bytes: what bulk operations move at least, and swizzles permute
LARGEST_RANK = 255


def deliver(
    machine: Machine,
    instr: Instruction,
    lane: int,
    engine: str,
    offsets: np.ndarray,
    fetch: Callable[[np.ndarray], np.ndarray],
    barrier_at: int,
    amount: int,
    reduces: bool = False,
    done: Callable[[int], None] | None = None,
) -> None:
    """Write chunks at `offsets` of the shared arena, then call done(agent of the mbarrier) and announce `amount` bytes on it.

    fetch(what the chunks hold) gives (n, 16) bytes. reduces: other reductions may work on the same chunks meanwhile.
    """
    sanitizer, shared = machine.sanitizer, machine.memory.shared
    barrier = expect_completion(machine, barrier_at, instr, lane)
    sanitizer.check_proxy(instr, offsets, CHUNK, sanitizer.row(lane // WARP), lane)
    claims = shared_claims(machine)
    claims.begin(instr, offsets, CHUNK, lane, reduces)
    touch_by_agent(machine, instr, offsets, barrier.agent)
    index = offsets // CHUNK
    chunks = shared.data.reshape(-1, CHUNK)
    if not reduces:
        chunks[index] = FRESH

    def perform() -> None:
        chunks[index] = fetch(chunks[index])
        claims.end(instr, offsets, CHUNK, barrier.agent, reduces)
        touch_by_agent(machine, instr, offsets, barrier.agent)
        if done is not None:
            done(barrier.agent)
        complete_tx(barrier, amount, instr)

    deliver_to(barrier, machine.engines.get(engine), Operation(instr, perform))


def shared_place(b: Binding, lane: int, address: int, size: int, align: int) -> int | None:
    """The arena offset of bytes in the shared memory of the cluster, None (after a report) if something is wrong."""
    machine = b.machine
    one = Active.of_lanes(np.array([lane]), machine.lanes)
    name, where, _ = machine.memory.parts(None if address >> WINDOW_SHIFT else "shared", np.array([address]))[0]
    if name != "shared":
        machine.stop(reports.OUT_OF_BOUNDS, f"a bulk operation on {name} memory in place of shared", b.instruction, lane)
    _, offsets, good, _ = machine.memory.locate(b.instruction, "bulk access", name, where, size, one, align)
    return int(offsets[0]) if good is None else None


def signal_place(b: Binding, lane: int, address: int) -> int:
    """The arena offset of an mbarrier, which must have been initialised before."""
    machine = b.machine
    one = Active.of_lanes(np.array([lane]), machine.lanes)
    found = mbarriers(machine).locate(b, None if address >> WINDOW_SHIFT else "shared", np.array([address]), one)
    if machine.sanitizer.enabled:
        machine.sanitizer.check_after_write(b.instruction, np.array(found), 8, one, "uses the mbarrier at")
    return found[0]


def multicast_places(
    b: Binding, lane: int, place: int, signal: int, mask: int | None, pair: bool = False
) -> list[tuple[int, int]]:
    """(destination, mbarrier) in each CTA of a multicast: the same offsets as in the operands. No mask: there is one.

    With .cta_group::2 the mbarrier is in the CTA of each pair whose parity is that of the mbarrier operand.
    """
    machine = b.machine
    here, there = place >> RANK_SHIFT & LARGEST_RANK, signal >> RANK_SHIFT & LARGEST_RANK
    if mask is None:
        if here != there and not pair:
            message = f"the destination lies in the cluster's CTA {here}, its mbarrier in CTA {there}: both must be in one"
            machine.report(reports.DESCRIPTOR, message, b.instruction, lane)
        return [(place, signal)]
    if mask >> machine.cluster_size or not mask:
        message = f"the CTA mask {mask:#x} of a multicast names CTAs outside of the cluster of {machine.cluster_size}"
        machine.report(reports.DESCRIPTOR, message if mask else "the CTA mask of a multicast is empty", b.instruction, lane)
    clear = ~(LARGEST_RANK << RANK_SHIFT)
    found = []
    for rank in range(machine.cluster_size):
        if mask >> rank & 1:
            owner = (rank & ~1) | (there & 1) if pair else rank
            found.append((place & clear | rank << RANK_SHIFT, signal & clear | owner << RANK_SHIFT))
    return found


@dataclass
class GlobalRows:
    """Byte strings of one length in global memory. `starts`: their arena offsets; `index`: the offset of every byte."""

    starts: np.ndarray
    length: int

    @property
    def index(self) -> np.ndarray:
        return self.starts[:, None] + np.arange(self.length)

    def data(self, machine: Machine) -> np.ndarray:
        return machine.memory.global_space.data[self.index]

    def kept(self, keep: np.ndarray) -> GlobalRows:
        return GlobalRows(self.starts[keep], self.length)


def check_rows(machine: Machine, instr: Instruction, lane: int, rows: GlobalRows, what: str, hint: str = "") -> np.ndarray:
    """Which rows may be touched, with reports about the others and about what is in them. Counts and races, too.

    what: "load", "store", or "reduce", which reads and writes, atomically, so that it races with none of its kind.
    """
    space = machine.memory.global_space
    verb = {"load": "reads", "store": "writes", "reduce": "adds to"}[what]
    if not rows.starts.size or not rows.length:
        return np.ones(len(rows.starts), bool)
    inside = (rows.starts >= 0) & (rows.starts <= space.size - rows.length)
    state = space.state[np.where(inside, rows.starts, 0)[:, None] + np.arange(rows.length)]

    def report(kind: str, bad: np.ndarray, message: str) -> None:
        if bad.any():
            at = int(np.argmax(bad))
            place = machine.memory.place(space, int(rows.starts[at]), rows.length)
            machine.report(kind, message.format(place=place), instr, lane, None, int(bad.sum()))

    good = inside & ((state & MAPPED) != 0).all(axis=1)
    report(reports.OUT_OF_BOUNDS, ~good, f"asynchronously {verb} {{place}}{hint}")
    if what != "load" and space.has_read_only:
        locked = good & ((state & READ_ONLY) != 0).any(axis=1)
        report(reports.OUT_OF_BOUNDS, locked, f"asynchronously {verb} {{place}}, an array that is read-only")
        good &= ~locked
    if what != "store":
        empty = good & ((state & WRITTEN) == 0).any(axis=1)
        report(reports.UNINITIALISED, empty, f"asynchronously {verb} {{place}}, which nothing has written")
    busy = IN_FLIGHT if what != "reduce" else WRITING
    if space.in_flight:
        message = f"asynchronously {verb} {{place}} while an earlier asynchronous operation may still be writing it "
        message += "(no cp.async.bulk.wait_group without .read came before)"
        report(reports.IN_FLIGHT, good & ((state & busy) != 0).any(axis=1), message)
    starts = rows.starts[good]
    if machine.grid_races is not None and what != "reduce":
        machine.grid_races.bulk(instr, starts, rows.length, lane, what == "store")
    count(machine, instr, starts, rows.length, what)
    return good


def count(machine: Machine, instr: Instruction, starts: np.ndarray, length: int, what: str) -> None:
    """Bytes and 32-byte sectors of global memory."""
    if machine.counters.enabled and starts.size:
        sectors = (starts >> 5)[:, None] + np.arange(length // 32 + 2)
        distinct = np.unique(sectors[sectors <= ((starts + length - 1) >> 5)[:, None]])
        machine.counters.add(f"bulk_{what}_bytes", length * len(starts), instr)
        machine.counters.add(f"bulk_{what}_sectors", len(distinct), instr)


@dataclass
class Transfer:
    """One operation that a thread has to wait for. `read` is None once the thread knows that it has read its source."""

    lane: int
    group: int
    engine: Engine
    read: Operation | None
    write: Operation


class BulkGroups:
    """The groups of every thread."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.committed = np.zeros(machine.lanes, np.int64)
        self.pending: list[Transfer] = []

    def wait(self, active: Active, newest_left: int, only_read: bool) -> None:
        mask = active.mask
        left = []
        for each in self.pending:
            if not mask[each.lane] or each.group >= self.committed[each.lane] - newest_left:
                left.append(each)
                continue
            if each.read is not None:
                each.engine.retire([each.read])
                each.read = None
            if only_read:
                left.append(each)
            else:
                each.engine.retire([each.write])
        self.pending = left


def bulk_groups(machine: Machine) -> BulkGroups:
    return machine.family_state("bulk groups", lambda: BulkGroups(machine))


def send(
    machine: Machine,
    instr: Instruction,
    lane: int,
    engine: str,
    offsets: np.ndarray,
    rows: GlobalRows,
    put: Callable[[np.ndarray, np.ndarray], None],
    reduces: bool,
) -> None:
    """Read chunks at `offsets` of the shared arena; later put(bytes of the rows' places in global memory, chunks)."""
    sanitizer, shared = machine.sanitizer, machine.memory.shared
    sanitizer.begin_async_read(instr, offsets, CHUNK, sanitizer.row(lane // WARP), lane)
    index = rows.index
    machine.memory.global_space.begin_async_write(index, reduces)
    held: list[np.ndarray] = []
    read = Operation(
        instr,
        lambda: held.append(shared.data.reshape(-1, CHUNK)[offsets // CHUNK]),
        retire=lambda: sanitizer.end_async_read(offsets, CHUNK, sanitizer.home(lane)),
    )

    def perform() -> None:
        read.complete()
        put(index, held[0])

    def retire() -> None:
        machine.memory.global_space.end_async_write(index, reduces)

    write = Operation(instr, perform, retire=retire, must_retire=False)
    queue = machine.engines.get(engine)
    queue.submit(read)
    queue.submit(write)
    groups = bulk_groups(machine)
    groups.pending.append(Transfer(lane, int(groups.committed[lane]), queue, read, write))


@instruction("cp.async.bulk.commit_group")
def commit(b: Binding) -> Step:
    def run(active: Active) -> None:
        bulk_groups(b.machine).committed[active.index] += 1

    return run


@instruction("cp.async.bulk.wait_group")
def wait(b: Binding) -> Step:
    only_read, left = b.flag("read"), b.constant(0)
    return lambda active: bulk_groups(b.machine).wait(active, left, only_read)
