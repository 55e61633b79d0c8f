"""mbarrier: init, inval, arrive, expect_tx, complete_tx, test_wait, try_wait, and cp.async.mbarrier.arrive.

An mbarrier is a Python object, found by its place in shared memory; the eight bytes there only mark that it exists.
A phase ends when no arrivals and no bytes are pending. Bytes may be transiently negative: a copy may complete before the
expect_tx that announces it. Other families signal through `complete_tx` and `arrive_from_outside`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import reports
from ..asynchrony import Engine, Operation
from ..binding import Binding, Control, Step, instruction
from ..machine import Machine
from ..registers import TYPES, WARP, Active
from ..remote import remote_accesses
from ..spaces import SHARED_BASE
from ..syntax import Instruction, Sink
from .cp_async import engine

LARGEST_COUNT = (1 << 20) - 1
EARLY_RETURN = 0.1  # of try_wait under the random schedule: its time limit passes before the phase ends


class MBarrier:
    """One barrier object. `offset` is its place in the shared arena."""

    def __init__(self, machine: Machine, offset: int, count: int, instr: Instruction) -> None:
        self.machine, self.offset, self.count, self.instruction = machine, offset, count, instr
        self.pending, self.bytes, self.phase = count, 0, 0
        self.arrived: np.ndarray | None = None  # the past of those who arrived in this phase
        self.released: np.ndarray | None = None  # the past that waiters of completed phases acquire
        self.waiting: list[int] = []
        self.invalidated = False
        self.operations = 0  # asynchronous operations that will signal it
        # Agents that signal it: what a thread must know of them to invalidate it, and the instruction that announced them.
        self.signals: dict[int, tuple[int, Instruction]] = {}
        self.looks: dict[int, tuple[int, Instruction]] = {}  # for each warp, as an agent, its last wait: when and where
        self.delivered: list[tuple[Engine, Operation]] = []  # those whose bytes a thread must learn of before it ends
        rank, place = divmod(offset, machine.memory.shared.stride)
        self.agent = machine.sanitizer.agent(("mbarrier", rank % machine.cluster_size, place - SHARED_BASE))

    def __str__(self) -> str:
        """Why a thread waits here, for deadlock reports."""
        place = self.machine.memory.place(self.machine.memory.shared, self.offset, 8)
        return f"phase {self.phase} of the mbarrier ({place}), which lacks {self.pending} arrivals and {self.bytes} bytes,"

    def arrive(self, rows: np.ndarray | None, instr: Instruction, lane: int | None, count: int = 1) -> None:
        """`rows`: the past that the arrival releases, None for a relaxed one."""
        if rows is not None:
            self.arrived = self.machine.sanitizer.merge(self.arrived, rows)
        if count > self.pending:
            message = f"{count} arrivals at an mbarrier that expects {self.pending} more of {self.count} in phase {self.phase}"
            self.machine.stop(reports.MBARRIER, message, instr, lane)
        self.pending -= count
        self.settle()

    def expect(self, count: int, instr: Instruction, lane: int | None) -> None:
        self.bytes += count
        if abs(self.bytes) > LARGEST_COUNT:
            self.machine.stop(
                reports.MBARRIER, f"{self.bytes} bytes pending on an mbarrier; the limit is {LARGEST_COUNT}", instr, lane
            )

    def settle(self) -> None:
        """End the phase if nothing is pending."""
        if self.pending or self.bytes:
            return
        self.phase += 1
        self.pending = self.count
        sanitizer = self.machine.sanitizer
        rows = self.arrived if self.arrived is not None else np.zeros_like(sanitizer.row(0))
        rows = np.pad(rows, ((0, 0), (0, sanitizer.clock.shape[1] - rows.shape[1])))
        rows[:, self.agent] = self.machine.step
        self.released = sanitizer.merge(self.released, rows)
        self.arrived = None
        if self.waiting:
            self.machine.scheduler.wake(np.array(self.waiting))
            self.waiting.clear()

    def passed(self, parity: int) -> bool:
        """Whether the phase of this parity has ended: a fresh barrier has passed parity 1."""
        return (self.phase & 1) != (parity & 1)

    def learn(self, acquiring: np.ndarray | None) -> None:
        """Threads saw a phase end: what was delivered is known to be there, and acquiring lanes come after the arrivals."""
        if self.delivered:
            for queue, operation in self.delivered:
                if operation.done:
                    queue.retire([operation])
            self.delivered = [pair for pair in self.delivered if not pair[1].done]
        if acquiring is not None and self.released is not None:
            self.machine.sanitizer.acquire(np.unique(acquiring // WARP), self.released)


class MBarriers:
    """All mbarriers of the resident CTAs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.found: dict[int, MBarrier] = {}

    def locate(self, b: Binding, space: str | None, addresses: np.ndarray, active: Active) -> list[int]:
        """Arena offsets; out of bounds or misaligned addresses stop the launch."""
        name, where, _ = self.machine.memory.parts(space, addresses)[0]
        if name != "shared":
            self.machine.stop(reports.MBARRIER, f"an mbarrier in {name} memory", b.instruction, active.lanes[0])
        _, offsets, good, _ = self.machine.memory.locate(b.instruction, "mbarrier access", "shared", where, 8, active)
        if good is not None:
            raise reports.Stop
        return [int(o) for o in offsets]

    def at(self, offset: int, instr: Instruction, lane: int | None, what: str = "used") -> MBarrier:
        if offset not in self.found:
            place = self.machine.memory.place(self.machine.memory.shared, offset, 8)
            self.machine.stop(reports.MBARRIER, f"an mbarrier is {what} that was not initialised: {place}", instr, lane)
        return self.found[offset]


def mbarriers(machine: Machine) -> MBarriers:
    return machine.family_state("mbarriers", lambda: MBarriers(machine))


# What other families call.


def expect_completion(
    machine: Machine, offset: int, instr: Instruction, lane: int | None, signal: tuple[int, int] | None = None
) -> MBarrier:
    """An asynchronous operation that will signal the barrier at an arena offset has been issued.

    signal: the agent and the step that those acquire who learn of it, if the operation has them now. The barrier must not be
    invalidated by a thread that does not come after it, even if the operation happens to be complete.
    """
    barrier = mbarriers(machine).at(offset, instr, lane, "named by an asynchronous operation")
    barrier.operations += 1
    if signal is not None:
        barrier.signals[signal[0]] = signal[1], instr
    return barrier


def complete_tx(barrier: MBarrier, count: int, instr: Instruction) -> None:
    """An operation has delivered bytes. Its writes belong to the agent `barrier.agent`."""
    if still_there(barrier, instr):
        barrier.expect(-count, instr, None)
        barrier.settle()


def deliver_to(barrier: MBarrier, engine: Engine, operation: Operation) -> None:
    """Submit an operation that writes shared memory; it is in flight until a wait for a phase after it has passed."""
    operation.retire = lambda: None
    barrier.delivered.append((engine, operation))
    engine.submit(operation)


def arrive_from_outside(barrier: MBarrier, rows: np.ndarray | None, instr: Instruction, count: int = 1) -> None:
    """An asynchronous operation arrives (tcgen05.commit, cp.async.mbarrier.arrive)."""
    if still_there(barrier, instr):
        barrier.arrive(rows, instr, None, count)


def still_there(barrier: MBarrier, instr: Instruction) -> bool:
    """An operation signals the barrier. False if it was invalidated too early, which has been reported."""
    barrier.operations -= 1
    if barrier.invalidated:
        return False
    if mbarriers(barrier.machine).found.get(barrier.offset) is not barrier:
        place = barrier.machine.memory.place(barrier.machine.memory.shared, barrier.offset, 8)
        barrier.machine.stop(reports.MBARRIER, f"an asynchronous operation signals an mbarrier that is gone: {place}", instr)
    return True


# Instructions.


def scopes(b: Binding) -> tuple[str | None, bool]:
    """(space, relaxed)."""
    space = b.space()
    relaxed = b.flag("relaxed")
    b.ignore("release", "acquire", "cta", "cluster", "b64")
    return space, relaxed


@instruction("mbarrier.init")
def init(b: Binding) -> Step:
    space, _ = scopes(b)
    address, count = b.address(0), b.source(1, TYPES["u32"])
    machine, instr = b.machine, b.instruction

    def run(active: Active) -> None:
        addresses = address(active)
        table = mbarriers(machine)
        counts = b.compact(count, active)
        offsets = table.locate(b, space, addresses, active)
        for lane, offset, n in zip(active.lanes, offsets, counts, strict=True):
            old = table.found.get(offset)
            if old is not None and old.waiting:
                machine.stop(reports.MBARRIER, "an mbarrier is initialised again while threads wait on it", instr, lane)
            if not 1 <= n <= LARGEST_COUNT:
                machine.stop(reports.MBARRIER, f"an mbarrier cannot expect {int(n)} arrivals", instr, lane)
            table.found[offset] = MBarrier(machine, offset, int(n), instr)
        machine.memory.store_rows(
            instr, space, addresses, counts.astype(np.uint64)[:, None].view(np.uint8).reshape(-1, 8), active
        )

    return run


@instruction("mbarrier.inval")
def invalidate(b: Binding) -> Step:
    space, _ = scopes(b)
    address, machine, instr = b.address(0), b.machine, b.instruction

    def run(active: Active) -> None:
        table = mbarriers(machine)
        for lane, offset in zip(active.lanes, table.locate(b, space, address(active), active), strict=True):
            barrier = table.at(offset, instr, lane, "invalidated")
            early = early_uses(machine, barrier, lane)
            if barrier.operations or barrier.waiting or early:
                what = "threads wait on it"
                if early:
                    what = early[0]
                elif barrier.operations:
                    what = f"{barrier.operations} asynchronous operations may still signal it"
                place = machine.memory.place(machine.memory.shared, offset, 8)
                message = f"an mbarrier ({place}) is invalidated while {what}: wait for its phase, or for a later one, first"
                machine.report(reports.MBARRIER, message, instr, lane)
            barrier.invalidated = True
            del table.found[offset]

    return run


def early_uses(machine: Machine, barrier: MBarrier, lane: int) -> list[str]:
    """What was announced to signal the barrier or has waited for it, and a thread does not come after."""
    sanitizer = machine.sanitizer
    if not sanitizer.enabled:
        return []
    clock = sanitizer.clock[lane // WARP]
    found = [
        f"{instr.name} at PTX line {instr.line} may still signal it"
        for agent, (step, instr) in barrier.signals.items()
        if step > clock[agent]
    ]
    return found + [
        f"{sanitizer.agent_name(agent)} may still wait for it at PTX line {instr.line}"
        for agent, (step, instr) in barrier.looks.items()
        if step > clock[agent]
    ]


def check_ordered(machine: Machine, instr: Instruction, offsets: list[int], active: Active) -> None:
    """The barrier's initialisation must come before its use."""
    sanitizer = machine.sanitizer
    where = np.array(offsets)
    if machine.cluster_size > 1:
        remote_accesses(machine).touch(instr, where, active)
    if sanitizer.enabled:
        sanitizer.check_after_write(instr, where, 8, active, "uses the mbarrier at")


@instruction("mbarrier.arrive", "mbarrier.arrive_drop")
def arrive(b: Binding) -> Step:
    """[state,] [addr] [, count or tx-count]; with .expect_tx the operand is the bytes that this arrival announces."""
    drop = b.instruction.modifiers[0] == "arrive_drop"
    with_bytes = b.flag("expect_tx")
    no_complete = b.flag("noComplete")
    space, relaxed = scopes(b)
    first = 0 if not _is_address(b, 0) else -1
    state = None if first < 0 or isinstance(b.operand(0), Sink) else b.destination(0, TYPES["b64"])
    at = first + 1
    address = b.address(at)
    amount = b.source(at + 1, TYPES["u32"]) if len(b.operands) > at + 1 else np.uint32(0 if with_bytes else 1)
    machine, instr = b.machine, b.instruction

    def run(active: Active) -> None:
        table = mbarriers(machine)
        offsets = table.locate(b, space, address(active), active)
        check_ordered(machine, instr, offsets, active)
        amounts = b.compact(amount, active)
        past = {int(w): None if relaxed else machine.sanitizer.row(int(w)) for w in active.warps}
        states = np.zeros(active.count, np.uint64)
        for i, (lane, offset) in enumerate(zip(active.lanes, offsets, strict=True)):
            barrier = table.at(offset, instr, lane, "arrived at")
            states[i] = barrier.phase
            if with_bytes:
                barrier.expect(int(amounts[i]), instr, lane)
            if drop:
                barrier.count -= 1
            before = barrier.phase
            barrier.arrive(past[int(lane) // WARP], instr, lane, 1 if with_bytes else int(amounts[i]))
            if no_complete and barrier.phase != before:
                machine.report(reports.MBARRIER, "an arrival marked .noComplete completes the phase", instr, lane)
        if state is not None:
            state.put(states, active)

    return run


def _is_address(b: Binding, which: int) -> bool:
    return hasattr(b.operand(which), "base")


@instruction("mbarrier.expect_tx", "mbarrier.complete_tx")
def transactions(b: Binding) -> Step:
    sign = 1 if b.instruction.modifiers[0] == "expect_tx" else -1
    space, _ = scopes(b)
    address, amount = b.address(0), b.source(1, TYPES["u32"])
    machine, instr = b.machine, b.instruction

    def run(active: Active) -> None:
        table = mbarriers(machine)
        offsets = table.locate(b, space, address(active), active)
        check_ordered(machine, instr, offsets, active)
        for lane, offset, n in zip(active.lanes, offsets, b.compact(amount, active), strict=True):
            barrier = table.at(offset, instr, lane)
            barrier.expect(sign * int(n), instr, lane)
            if sign < 0:
                barrier.settle()

    return run


@instruction("mbarrier.try_wait", "mbarrier.test_wait")
def wait(b: Binding) -> Step:
    """p, [addr], phase parity or state [, time limit]. test_wait asks; try_wait sleeps until the phase ends."""
    blocking = b.instruction.modifiers[0] == "try_wait"
    by_parity = b.flag("parity")
    space, relaxed = scopes(b)
    done, address = b.destination(0, TYPES["pred"]), b.address(1)
    which = b.source(2, TYPES["u32" if by_parity else "b64"])
    machine, instr = b.machine, b.instruction

    def run(active: Active, pc: int) -> None:
        table = mbarriers(machine)
        offsets = table.locate(b, space, address(active), active)
        check_ordered(machine, instr, offsets, active)
        wanted, where = b.compact(which, active), np.array(offsets)
        result = np.zeros(active.count, bool)
        give_up = blocking and machine.policy.schedule == "random" and machine.rng.random() < EARLY_RETURN
        for offset, value in sorted(set(zip(offsets, wanted.tolist(), strict=True))):
            here = (where == offset) & (wanted == value)
            lanes = active.lanes[here]
            barrier = table.at(offset, instr, lanes[0], "waited for")
            for warp in set((lanes // WARP).tolist()):
                barrier.looks[int(machine.sanitizer.agent_of_warp[warp])] = (machine.step, instr)
            if barrier.passed(value) if by_parity else barrier.phase > value:
                result[here] = True
                barrier.learn(None if relaxed else lanes)
            elif blocking and not give_up:
                barrier.waiting += lanes.tolist()
                machine.scheduler.pc[lanes] = pc  # look again when woken
                machine.scheduler.block(lanes, barrier)
        done.put(result, active)

    return Control(run)


@instruction("mbarrier.pending_count")
def pending_count(b: Binding) -> Step:
    b.fail("the state of an mbarrier is opaque here; pending_count is not supported")


@instruction("fence.mbarrier_init")
def fence_init(b: Binding) -> Step:
    b.ignore("release", "cluster")
    return lambda active: None


@instruction("cp.async.mbarrier.arrive")
def arrive_after_copies(b: Binding) -> Step:
    """Arrive when all copies that the thread has started are complete. Without .noinc the arrival is added first."""
    adds = not b.flag("noinc")
    space, _ = scopes(b)
    address, machine, instr = b.address(0), b.machine, b.instruction

    def run(active: Active) -> None:
        table = mbarriers(machine)
        copies = engine(machine)
        offsets = np.array(table.locate(b, space, address(active), active))
        check_ordered(machine, instr, list(offsets), active)
        barriers = {int(o): table.at(int(o), instr, active.lanes[0], "arrived at") for o in np.unique(offsets)}
        for offset, barrier in barriers.items():
            lanes = active.lanes[offsets == offset]
            if adds:
                barrier.pending += len(lanes)
            barrier.operations += 1
            issue(machine, copies, barrier, lanes, instr)

    def issue(machine: Machine, copies: Any, barrier: MBarrier, lanes: np.ndarray, instr: Instruction) -> None:
        limit = np.full(machine.lanes, -1, np.int64)
        limit[lanes] = np.iinfo(np.int64).max
        mine = copies.take(limit)

        def perform() -> None:
            for part in mine:
                copies.perform(part, np.ones(len(part.lanes), bool))
                machine.sanitizer.end_async_write(part.instruction, part.offsets, part.size, barrier.agent, lanes=part.lanes)
            arrive_from_outside(barrier, None, instr, len(lanes))

        machine.engines.get("cp.async arrival").submit(Operation(instr, perform))

    return run
