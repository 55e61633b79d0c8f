"""Which lanes execute what, next.

Every thread has its own program counter. A group is a set of runnable lanes at one program counter; it runs until it
reaches the counter of a lane it could merge with, diverges, blocks, or has used up its turn. "lockstep" always takes the
lanes at the lowest counter, all warps and CTAs at once, so that diverged lanes meet again at the earliest point; "random"
takes one warp, and each other warp at the same counter with probability 1/2, for a random number of instructions.

Blocked lanes are not runnable: barriers and mbarrier waits need no polling. When nothing is runnable, asynchronous
operations are performed; when none is left either, the kernel has deadlocked.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .binding import Branch, Collective, Control, Step, bind
from .registers import WARP, Active
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine

RUNNABLE, BLOCKED, ENDED = 0, 1, 2
TURN = 4096  # instructions after which a lockstep group lets others run: ends spin loops on memory
RANDOM_TURN = 60
RELIEF = 512  # lockstep decisions after which a group other than the lowest gets a turn: ends divergent spin loops
FULL_WARP = np.uint32(0xFFFFFFFF)
NOWHERE = np.iinfo(np.int32).max


class Scheduler:
    """Program counters and states of all lanes of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pc = np.zeros(machine.lanes, np.int32)
        self.status = np.full(machine.lanes, ENDED, np.uint8)
        self.why = np.zeros(machine.lanes, np.int32)  # what a blocked lane waits for, an index into `reasons`
        self.reasons: list[object] = [""]
        self.blocked_at = np.zeros(machine.lanes, np.int32)  # the instruction that blocked a lane
        self.now = 0  # the instruction being executed, if it is Control or Collective
        self.collected: dict[int, np.ndarray] = {}  # pc of a collective -> lanes that wait there for the others
        self.exit_hooks: list = []  # called with the lanes that ended
        self.steps: list[tuple[Instruction, Step, np.ndarray | None]] = []

    def bind(self) -> None:
        for instruction in self.machine.program:
            guard = None
            if instruction.guard is not None:
                guard = self.machine.registers.arrays[instruction.guard.key]
            step = self.machine.registers_in_flight.watch(instruction, bind(instruction, self.machine))
            self.steps.append((instruction, step, guard))

    def start(self, lanes: np.ndarray) -> None:
        self.pc[:] = self.machine.kernel.entries[self.machine.kernel.name]
        self.status[:] = ENDED
        self.status[lanes] = RUNNABLE
        self.collected.clear()
        self.exit_hooks.clear()

    # For handlers.

    def block(self, lanes: np.ndarray, why: object) -> None:
        """Lanes stop running until `wake`. Their program counters say where they will go on.

        str(why) completes "threads wait for ..." in the report of a deadlock.
        """
        if why not in self.reasons:
            self.reasons.append(why)
        self.status[lanes] = BLOCKED
        self.why[lanes] = self.reasons.index(why)
        self.blocked_at[lanes] = self.now

    def wake(self, lanes: np.ndarray) -> None:
        self.status[lanes] = RUNNABLE

    def end(self, lanes: np.ndarray) -> None:
        self.status[lanes] = ENDED
        for hook in list(self.exit_hooks):
            hook(lanes)
        for pc, waiting in list(self.collected.items()):  # a collective need not wait for lanes that are gone
            self.wake(waiting)
            del self.collected[pc]

    @property
    def alive(self) -> np.ndarray:
        return self.status != ENDED

    # The loop.

    def run(self) -> None:
        """Run until every lane has ended."""
        machine = self.machine
        random = machine.policy.schedule == "random"
        decisions = 0
        resting: np.ndarray | None = None
        while True:
            runnable = self.status == RUNNABLE
            if not runnable.any():
                if not self.alive.any():
                    return
                if not machine.engines.progress():
                    self.deadlock()
                continue
            decisions += 1
            machine.engines.tick()
            if random:
                self.random_turn(runnable)
                continue
            candidates = runnable
            if resting is not None:
                others = runnable & ~resting
                candidates = others if others.any() else runnable
                resting = None
            elif decisions % RELIEF == 0:
                low = int(self.pc[runnable].min())
                others = runnable & ~self.of_same_warps(runnable & (self.pc == low))
                if others.any():
                    candidates = others
            resting = self.turn(candidates, candidates, TURN)
            if resting is not None:
                machine.engines.progress()

    def of_same_warps(self, lanes: np.ndarray) -> np.ndarray:
        """All lanes of the warps of the given lanes."""
        return np.repeat(lanes.reshape(-1, WARP).any(axis=1), WARP)

    def random_turn(self, runnable: np.ndarray) -> None:
        rng = self.machine.rng
        pcs = np.where(runnable, self.pc, NOWHERE).reshape(-1, WARP).min(axis=1)
        ready = np.flatnonzero(pcs != NOWHERE)
        first = ready[int(rng.integers(len(ready)))]
        joins = (pcs == pcs[first]) & (rng.random(len(pcs)) < 0.5)
        joins[first] = True
        self.turn(runnable & np.repeat(joins, WARP), runnable & np.repeat(joins, WARP), int(rng.integers(1, RANDOM_TURN)))

    def turn(self, candidates: np.ndarray, peers: np.ndarray, limit: int) -> np.ndarray | None:
        """Run the candidates with the lowest counter. If they use up their turn, the lanes of their warps are returned."""
        pc = int(self.pc[candidates].min())
        mask = candidates & (self.pc == pc)
        others = peers & ~mask
        stop = int(self.pc[others].min()) if others.any() else NOWHERE
        if self.execute(pc, Active.of(mask), stop, limit):
            return self.of_same_warps(mask)
        return None

    def execute(self, pc: int, group: Active, stop: int, limit: int) -> bool:
        """Run a group from `pc`. True if it used up its turn. Leaves the program counters of its lanes right."""
        machine, steps, counts = self.machine, self.steps, self.machine.counters.instructions
        num_warps = len(group.warps)
        last = machine.step + limit
        while True:
            instruction, step, guard = steps[pc]
            machine.step += 1
            counts[pc] += num_warps
            active = group if guard is None else group.narrow(guard, instruction.guard_negated)
            pc += 1
            if isinstance(step, Branch):
                if active is group:
                    pc = step.target
                elif active is not None:
                    self.pc[group.mask] = pc
                    self.pc[active.mask] = step.target
                    return False
            elif isinstance(step, Control):
                self.pc[group.index] = pc
                self.now = pc - 1
                if active is not None:
                    step.run(active, pc - 1)
                return False
            elif isinstance(step, Collective):
                if active is not None and not self.collect(step, active, group, pc - 1):
                    return False
            elif active is not None:
                step(active)
            if pc >= stop or machine.step >= last:
                self.pc[group.index] = pc
                if machine.step >= machine.options.largest_steps:
                    machine.stop(reports.LIMIT, f"more than {machine.options.largest_steps} steps", instruction)
                return pc < stop

    # Collectives.

    def collect(self, step: Collective, active: Active, group: Active, pc: int) -> bool:
        """Run a collective for the warps whose members are all here; the lanes of others wait. True if none waits."""
        machine = self.machine
        members = step.members
        self.now = pc
        everyone = active.count == len(active.warps) * WARP
        if everyone and (np.asarray(members)[active.index if np.ndim(members) else ...] == FULL_WARP).all():
            step.run(active)
            return True
        waiting = self.collected.pop(pc, None)
        here = active.mask if waiting is None else active.mask | waiting
        named = np.broadcast_to(members, (machine.lanes,)).astype(np.uint32)
        lane_bit = np.uint32(1) << (np.arange(machine.lanes) % WARP).astype(np.uint32)
        present = np.where(here, lane_bit, 0).reshape(-1, WARP).sum(axis=1, dtype=np.uint64)
        alive = np.where(self.alive, lane_bit, 0).reshape(-1, WARP).sum(axis=1, dtype=np.uint64)
        wanted = np.repeat(alive, WARP) & named
        ready = here & ((wanted & ~np.repeat(present, WARP)) == 0)
        stranger = active.mask & ((named & lane_bit) == 0)
        if stranger.any():
            lane = int(np.argmax(stranger))
            message = f"lane {lane % WARP} executes a warp instruction whose member mask {int(named[lane]):#x} does not name it"
            machine.report(reports.DIVERGENCE, message, self.machine.program[pc], lane)
            ready |= stranger
        late = here & ~ready
        done = ready & ~active.mask  # waited here in an earlier turn
        if ready.any():
            step.run(Active.of(ready))
        if not late.any() and not done.any():
            return True
        self.pc[group.mask] = pc + 1
        self.pc[done] = pc + 1
        self.wake(np.flatnonzero(done))
        if late.any():
            self.pc[late] = pc
            self.block(np.flatnonzero(late), "the other lanes of its warp to arrive")
            self.collected[pc] = late
        return False

    # The end.

    def deadlock(self) -> None:
        places: Counter[tuple[int, int]] = Counter()
        for lane in np.flatnonzero(self.status == BLOCKED):
            places[int(self.blocked_at[lane]), int(self.why[lane])] += 1
        words = [
            f"{n} threads wait for {self.reasons[why]} at PTX {self.machine.program[pc]}"
            for (pc, why), n in sorted(places.items())
        ]
        first = self.machine.program[min(places)[0]] if places else None
        self.machine.stop(reports.DEADLOCK, "no thread can go on: " + "; ".join(words), first)
