"""tcgen05 but for what moves or multiplies: alloc, dealloc, relinquish_alloc_permit, commit, fence, wait.

One CTA's tensor memory is its own here: on hardware the CTAs of an SM share 512 columns, and alloc may wait for another CTA.
tcgen05.fence matters with Policy(tcgen05_fences="explicit") only: see docs/ptx-emulator.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import reports
from ..asynchrony import Operation
from ..binding import Binding, Control, Step, instruction
from ..machine import Machine
from ..registers import TYPES, WARP, Active
from ..syntax import Instruction
from ..tensor_memory import COLUMNS, UNIT, TensorMemory, tensor_memory
from .ldmatrix import whole_warps
from .mbarrier import arrive_from_outside, check_ordered, expect_completion, mbarriers
from .tcgen05_move import transfers

ENGINE = "tcgen05"


@dataclass(frozen=True)
class Wanted:
    """Why threads wait in tcgen05.alloc."""

    memory: TensorMemory
    cta: int
    columns: int

    def __str__(self) -> str:
        taken = sum(a is not None for a in self.memory.owner[self.cta]) * UNIT
        return f"{self.columns} free columns of tensor memory ({taken} of {COLUMNS} are allocated)"


def uniform(b: Binding, active: Active, values: np.ndarray, what: str) -> np.ndarray:
    """One value for each warp."""
    rows = values.reshape(-1, WARP)
    if (rows != rows[:, :1]).any():
        lane = active.lanes[int(np.argmax((rows != rows[:, :1]).any(axis=1))) * WARP]
        b.machine.stop(reports.DIVERGENCE, f"the threads of a warp give different {what}", b.instruction, lane)
    return rows[:, 0]


def check_columns(machine: Machine, columns: int, instr: Instruction, lane: int) -> None:
    if not UNIT <= columns <= COLUMNS or columns & columns - 1:
        message = f"{columns} tensor memory columns: it must be a power of two from {UNIT} to {COLUMNS}"
        machine.stop(reports.RESOURCES, message, instr, lane)


@instruction("tcgen05.alloc")
def alloc(b: Binding) -> Step:
    """tcgen05.alloc.cta_group::1.sync.aligned{.shared::cta}.b32 [dst], columns: waits until there are as many."""
    b.required("cta_group::1")
    b.ignore("sync", "aligned", "b32")
    space = b.space()
    target, wanted = b.address(0), b.source(1, TYPES["u32"])
    machine, instr = b.machine, b.instruction

    def run(active: Active, pc: int) -> None:
        lanes = whole_warps(b, active)
        counts = uniform(b, active, b.compact(wanted, active), "numbers of columns")
        places = target(active).reshape(-1, WARP)[:, 0]
        for row, count, place in zip(lanes, counts, places, strict=True):
            allocate(row, int(count), place, pc)

    def allocate(lanes: np.ndarray, count: int, place: int, pc: int) -> None:
        memory = tensor_memory(machine)
        cta, lane = int(machine.cta_of[lanes[0]]), int(lanes[0])
        check_columns(machine, count, instr, lane)
        given_up = memory.relinquished[cta]
        if given_up is not None:
            message = f"tcgen05.alloc after the CTA has given up the right at PTX line {given_up.line} ({given_up.text})"
            machine.stop(reports.RESOURCES, message, instr, lane)
        first = memory.find(cta, count)
        if first is None:
            machine.scheduler.pc[lanes] = pc
            machine.scheduler.block(lanes, Wanted(memory, cta, count))
            memory.sleepers[cta].append(lanes)
            return
        memory.allocate(cta, first, count, instr)
        machine.counters.add("tcgen05_alloc_columns", count, instr)
        row = np.array([[first]], np.uint32).view(np.uint8)
        writer = Active.of_lanes(lanes[:1], machine.lanes)
        machine.memory.store_rows(instr, space, np.array([place]), row, writer)
        # "The Tensor Memory allocation related instructions that access shared memory maintain same-address ordering with
        # respect to non-tcgen05 instructions" (PTX ISA, tcgen05 memory consistency): no proxy fence is needed.
        _, where, _ = machine.memory.parts(space, np.array([place]))[0]
        _, offsets, good, _ = machine.memory.locate(instr, "store", "shared", where, 4, writer)
        if good is None:
            machine.sanitizer.forget_writing_thread(offsets, 4)

    return Control(run)


@instruction("tcgen05.dealloc")
def dealloc(b: Binding) -> Step:
    b.required("cta_group::1")
    b.ignore("sync", "aligned", "b32")
    address, wanted = b.source(0, TYPES["u32"]), b.source(1, TYPES["u32"])
    machine = b.machine

    def run(active: Active) -> None:
        lanes = whole_warps(b, active)
        firsts = uniform(b, active, b.compact(address, active), "addresses")
        counts = uniform(b, active, b.compact(wanted, active), "numbers of columns")
        for row, first, count in zip(lanes, firsts, counts, strict=True):
            lane = int(row[0])
            check_columns(machine, int(count), b.instruction, lane)
            tensor_memory(machine).deallocate(int(machine.cta_of[lane]), int(first), int(count), b.instruction, lane)

    return run


@instruction("tcgen05.relinquish_alloc_permit")
def relinquish(b: Binding) -> Step:
    b.required("cta_group::1")
    b.ignore("sync", "aligned")

    def run(active: Active) -> None:
        for row in whole_warps(b, active):
            tensor_memory(b.machine).relinquished[int(b.machine.cta_of[row[0]])] = b.instruction

    return run


@instruction("tcgen05.fence::before_thread_sync", "tcgen05.fence::after_thread_sync")
def fence(b: Binding) -> Step:
    before = b.instruction.modifiers[0] == "fence::before_thread_sync"

    def run(active: Active) -> None:
        for warp in active.warps:
            tensor_memory(b.machine).fence(int(warp), before)

    return run


@instruction("tcgen05.wait::ld", "tcgen05.wait::st")
def wait(b: Binding) -> Step:
    """All loads or stores of the warp are complete."""
    what = b.instruction.modifiers[0].removeprefix("wait::")
    b.ignore("sync", "aligned")

    def run(active: Active) -> None:
        whole_warps(b, active)
        for warp in active.warps:
            transfers(b.machine, what).wait(int(warp))

    return run


@instruction("tcgen05.commit")
def commit(b: Binding) -> Step:
    """Arrive on an mbarrier when all that the executing thread has started in the pipeline is complete.

    The threads of a warp count as one, since programs elect one of them anew for each instruction.
    """
    b.required("cta_group::1")
    b.required("mbarrier::arrive::one")
    space = b.space()
    b.ignore("b64")
    address, machine, instr = b.address(0), b.machine, b.instruction

    def run(active: Active) -> None:
        offsets = mbarriers(machine).locate(b, space, address(active), active)
        check_ordered(machine, instr, offsets, active)
        for lane, offset in zip(active.lanes, offsets, strict=True):
            issue(int(lane), offset)

    def issue(lane: int, offset: int) -> None:
        warp = lane // WARP
        agent = tensor_memory(machine).agent("pipeline", warp)
        # What the operations come after is released, but not what the warp itself did: the arrival is not the thread's.
        rows = machine.sanitizer.row(warp)
        rows[:, machine.sanitizer.home(lane)] = 0
        rows[0, agent] = machine.step
        barrier = expect_completion(machine, offset, instr, lane, (agent, machine.step))
        perform = lambda: arrive_from_outside(barrier, rows, instr)  # noqa: E731
        order = int(machine.cta_of[lane])
        machine.engines.get(ENGINE).submit(Operation(instr, perform, order=order, must_retire=False))

    return run
