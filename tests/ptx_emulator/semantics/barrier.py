"""CTA barriers and fences: bar, barrier, bar.warp.sync, membar, fence."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import reports
from ..binding import Binding, Collective, Control, Step, instruction
from ..machine import Machine
from ..registers import TYPES, WARP, Active
from ..syntax import Instruction

BARRIERS = 16


class Barriers:
    """The sixteen barriers of every resident CTA. A barrier's key is cta * 16 + number.

    Arrivals are counted in threads; an .aligned arrival counts its warp as 32 even if the block does not fill it.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        keys = machine.ctas * BARRIERS
        self.arrived = np.zeros(keys, np.int64)
        self.wanted = np.zeros(keys, np.int64)  # 0: all live threads of the CTA
        self.waiting = np.full(machine.lanes, -1, np.int64)  # the key each lane waits at
        self.members = np.zeros((keys, machine.warps_per_cta), bool)  # warps that arrived, for the clocks
        self.reductions: dict[int, list[Any]] = {}
        machine.scheduler.exit_hooks.append(lambda lanes: self.release(np.unique(self.waiting[self.waiting >= 0])))

    def arrive(self, instr: Instruction, active: Active, number: Any, count: Any, wait: bool, aligned: bool) -> None:
        machine = self.machine
        lanes = active.lanes
        number = np.broadcast_to(number, (machine.lanes,))[lanes].astype(np.int64)
        count = np.broadcast_to(count, (machine.lanes,))[lanes].astype(np.int64)
        if (number >= BARRIERS).any():
            machine.stop(
                reports.BARRIER, f"barrier {int(number.max())}: there are {BARRIERS}", instr, lanes[int(number.argmax())]
            )
        if (count % WARP).any() and aligned:
            machine.stop(
                reports.BARRIER, f"thread count {int(count[count % WARP != 0][0])} is not a multiple of 32", instr, lanes[0]
            )
        if aligned:
            self._check_whole(instr, active)
        keys = machine.cta_of[lanes] * BARRIERS + number
        touched = np.unique(keys)
        self._check_counts(instr, keys, count, touched, lanes)
        if aligned:
            firsts = np.flatnonzero(np.r_[True, active.warp_of[1:] != active.warp_of[:-1]])
            np.add.at(self.arrived, keys[firsts], WARP)
        else:
            np.add.at(self.arrived, keys, 1)
        self.members[keys, active.warp_of % machine.warps_per_cta] = True
        if wait:
            self.waiting[lanes] = keys
            for value in np.unique(number):
                machine.scheduler.block(lanes[number == value], f"barrier {value}")
        self.release(touched)

    def _check_whole(self, instr: Instruction, active: Active) -> None:
        """.aligned: all live lanes of a warp execute it together."""
        alive = self.machine.scheduler.alive.reshape(-1, WARP)[active.warps].sum()
        if alive != active.count:
            lanes = np.flatnonzero(
                np.repeat(np.isin(np.arange(self.machine.num_warps), active.warps), WARP) & self.machine.scheduler.alive
            )
            missing = np.setdiff1d(lanes, active.lanes)[0]
            message = (
                f"an aligned barrier executed by part of a warp: thread {self.machine.thread_of(int(missing))[0]} is elsewhere"
            )
            self.machine.report(reports.DIVERGENCE, message, instr, active.lanes[0])

    def _check_counts(
        self, instr: Instruction, keys: np.ndarray, count: np.ndarray, touched: np.ndarray, lanes: np.ndarray
    ) -> None:
        fresh = self.arrived[touched] == 0
        first = np.searchsorted(touched, keys)
        given = np.zeros(len(touched), np.int64)
        given[first] = count
        self.wanted[touched[fresh]] = given[fresh]
        clash = self.wanted[keys] != count
        if clash.any():
            at = int(np.argmax(clash))
            was, now = int(self.wanted[keys[at]]), int(count[at])
            message = (
                f"barrier {int(keys[at]) % BARRIERS} is used with different thread counts: {was or 'all'} and {now or 'all'}"
            )
            self.machine.stop(reports.BARRIER, message, instr, lanes[at])

    def release(self, keys: np.ndarray) -> None:
        """Complete the barriers among `keys` that have all their arrivals."""
        machine = self.machine
        if not len(keys):
            return
        wanted = self.wanted[keys]
        over = (wanted > 0) & (self.arrived[keys] > wanted)
        if over.any():
            key = int(keys[over][0])
            machine.stop(
                reports.BARRIER, f"barrier {key % BARRIERS} got {self.arrived[key]} arrivals, it expects {self.wanted[key]}"
            )
        # Without a count: all live threads of the CTA wait here.
        live = machine.scheduler.alive.reshape(machine.ctas, -1).sum(axis=1)[keys // BARRIERS]
        here = np.bincount(self.waiting[self.waiting >= 0], minlength=len(self.arrived))[keys]
        complete = keys[np.where(wanted > 0, self.arrived[keys] >= wanted, here >= live) & (self.arrived[keys] > 0)]
        if not len(complete):
            return
        done = np.zeros(len(self.arrived), bool)
        done[complete] = True
        lanes = np.flatnonzero((self.waiting >= 0) & done[self.waiting])
        group, warp = np.nonzero(self.members[complete])
        machine.sanitizer.join(complete[group] // BARRIERS * machine.warps_per_cta + warp, group)
        for key in complete:
            for finish in self.reductions.pop(int(key), [])[:1]:
                finish(lanes[self.waiting[lanes] == key])
        self.arrived[complete] = 0
        self.members[complete] = False
        self.waiting[lanes] = -1
        machine.scheduler.wake(lanes)


def barriers(machine: Machine) -> Barriers:
    return machine.family_state("barriers", lambda: Barriers(machine))


@instruction("bar", "barrier")
def barrier(b: Binding) -> Step:
    """bar.sync is barrier.sync.aligned."""
    b.flag("cta")
    what = b.required("sync", "arrive", "red")
    aligned = b.flag("aligned") or b.instruction.opcode == "bar"
    if what == "red":
        return reduction(b, aligned)
    machine, u32 = b.machine, TYPES["u32"]
    number, count = b.source(0, u32), b.optional(1, u32, 0)

    def run(active: Active, pc: int) -> None:
        barriers(machine).arrive(b.instruction, active, number, count, what == "sync", aligned)

    return Control(run)


def reduction(b: Binding, aligned: bool) -> Step:
    """bar.red.{and,or}.pred p, a[, n], {!}q and bar.red.popc.u32 d, a[, n], {!}q"""
    operation = b.required("and", "or", "popc")
    kind = b.type()
    machine, u32 = b.machine, TYPES["u32"]
    destination, number = b.destination(0, kind), b.source(1, u32)
    count = b.source(2, u32) if len(b.operands) == 4 else np.uint32(0)
    predicate = b.predicate(-1)

    def finish(lanes: np.ndarray) -> None:
        held = predicate()[lanes]
        value = {"and": held.all, "or": held.any, "popc": held.sum}[operation]()
        destination.put(np.full(len(lanes), value), Active.of_lanes(lanes, machine.lanes))

    def run(active: Active, pc: int) -> None:
        state = barriers(machine)
        numbers = np.broadcast_to(number, (machine.lanes,))[active.lanes]
        for key in np.unique(machine.cta_of[active.lanes] * BARRIERS + numbers):
            state.reductions.setdefault(int(key), []).append(finish)
        state.arrive(b.instruction, active, number, count, True, aligned)

    return Control(run)


@instruction("bar.warp.sync")
def warp_sync(b: Binding) -> Step:
    return Collective(lambda active: None, b.source(0, TYPES["u32"]))


@instruction("membar", "fence")
def fence(b: Binding) -> Step:
    """Order between threads of one CTA comes from barriers; a fence alone orders nothing that is watched."""
    b.ignore("sc", "acq_rel", "acquire", "release", "relaxed", "cta", "cluster", "gpu", "sys", "gl")
    return lambda active: None


@instruction("fence.proxy.async")
def proxy_fence(b: Binding) -> Step:
    space = b.space()
    machine = b.machine

    def run(active: Active) -> None:
        if space != "global":
            machine.sanitizer.proxy_fence(active)
        if space != "shared" and machine.grid_races is not None:
            machine.grid_races.proxy_fence(active)

    return run
