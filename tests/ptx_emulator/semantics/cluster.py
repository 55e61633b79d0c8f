"""Clusters: mapa, getctarank, barrier.cluster, st.async, red.async. Plain ld, st, atom, red reach the cluster's memory, too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import reports
from ..asynchrony import Operation
from ..binding import Binding, Control, Step, instruction
from ..machine import Machine
from ..registers import TYPES, WARP, Active, ScalarType
from ..remote import touch_by_agent
from ..shared_claims import shared_claims
from ..spaces import RANK_SHIFT
from ..syntax import Instruction
from .atomic import combination
from .bulk_groups import LARGEST_RANK
from .mbarrier import complete_tx, deliver_to, expect_completion, mbarriers


@instruction("mapa")
def mapa(b: Binding) -> Step:
    """d, address, rank: the same place in the shared memory of the cluster's CTA `rank`."""
    kind = b.type()
    b.space()
    destination, address, rank = b.destination(0, kind), b.source(1, kind), b.source(2, TYPES["u32"])
    machine = b.machine
    clear = kind.dtype.type(np.iinfo(kind.dtype).max ^ LARGEST_RANK << RANK_SHIFT)

    def run(active: Active) -> None:
        ranks = b.compact(rank, active)
        bad = ranks >= machine.cluster_size
        if bad.any():
            message = f"mapa to CTA {int(ranks[bad][0])} of a cluster of {machine.cluster_size}"
            machine.report(reports.OUT_OF_BOUNDS, message, b.instruction, active.lanes[int(np.argmax(bad))])
        places = b.compact(address, active) & clear
        destination.put(places | (ranks & LARGEST_RANK).astype(kind.dtype) << kind.dtype.type(RANK_SHIFT), active)

    return run


@instruction("getctarank")
def getctarank(b: Binding) -> Step:
    kind = b.type()
    b.space()
    destination, address = b.destination(0, TYPES["u32"]), b.source(1, kind)
    return lambda active: destination.put((b.compact(address, active) >> kind.dtype.type(RANK_SHIFT)) & LARGEST_RANK, active)


class ClusterBarrier:
    """The barrier of one cluster. Threads that have ended count as arrived."""

    def __init__(self, machine: Machine, cluster: int) -> None:
        self.machine = machine
        per = machine.lanes_per_cta * machine.cluster_size
        self.lanes = np.arange(cluster * per, (cluster + 1) * per)
        self.phase = 0
        self.arrivals = np.zeros(per, np.int64)  # of each thread
        self.waits = np.zeros(per, np.int64)
        self.gathered: np.ndarray | None = None
        self.released: np.ndarray | None = None
        self.waiting: list[int] = []

    def __str__(self) -> str:
        missing = self.lanes[(self.arrivals <= self.phase) & self.machine.scheduler.alive[self.lanes]]
        thread, cta = self.machine.thread_of(int(missing[0])) if len(missing) else ("-", "-")
        return f"the cluster barrier, where {len(missing)} threads have not arrived (the first is {thread} of CTA {cta}),"

    def arrive(self, instr: Instruction, lanes: np.ndarray, releases: bool) -> None:
        own = lanes - self.lanes[0]
        again = self.arrivals[own] > self.waits[own]
        if again.any():
            message = "a thread arrives at the cluster barrier again without a barrier.cluster.wait in between"
            self.machine.stop(reports.BARRIER, message, instr, lanes[int(np.argmax(again))])
        self.arrivals[own] += 1
        if releases:
            for warp in np.unique(lanes // WARP):
                self.gathered = self.machine.sanitizer.merge(self.gathered, self.machine.sanitizer.row(int(warp)))
        self.settle()

    def settle(self) -> None:
        alive = self.machine.scheduler.alive[self.lanes]
        if (self.arrivals[alive] <= self.phase).any() or not (self.arrivals > self.phase).any():
            return
        self.phase += 1
        if self.gathered is not None:
            self.released = self.machine.sanitizer.merge(self.released, self.gathered)
            self.gathered = None
        if self.waiting:
            self.machine.scheduler.wake(np.array(self.waiting))
            self.waiting.clear()

    def wait(self, instr: Instruction, lanes: np.ndarray, pc: int) -> None:
        own = lanes - self.lanes[0]
        early = self.arrivals[own] <= self.waits[own]
        if early.any():
            message = "barrier.cluster.wait by a thread that has not arrived (barrier.cluster.arrive) since its last wait"
            self.machine.stop(reports.BARRIER, message, instr, lanes[int(np.argmax(early))])
        if self.phase <= self.waits[own[0]]:
            self.waiting += [int(lane) for lane in lanes]
            self.machine.scheduler.pc[lanes] = pc
            self.machine.scheduler.block(lanes, self)
            return
        self.waits[own] += 1
        if self.released is not None:
            self.machine.sanitizer.acquire(np.unique(lanes // WARP), self.released)
            if self.machine.grid_races is not None:
                self.machine.grid_races.cluster_barrier(lanes)


class ClusterBarriers:
    """Those of the resident clusters."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.barriers = [ClusterBarrier(machine, c) for c in range(machine.ctas // machine.cluster_size)]
        machine.scheduler.exit_hooks.append(self.ended)

    def ended(self, lanes: np.ndarray) -> None:
        """Nobody waits for threads that have ended."""
        for barrier in self.barriers:
            barrier.settle()

    def of(self, active: Active) -> list[tuple[ClusterBarrier, np.ndarray]]:
        per = self.machine.lanes_per_cta * self.machine.cluster_size
        clusters = active.lanes // per
        return [(self.barriers[c], active.lanes[clusters == c]) for c in np.unique(clusters)]


def cluster_barriers(machine: Machine) -> ClusterBarriers:
    return machine.family_state("cluster barriers", lambda: ClusterBarriers(machine))


def check_whole(b: Binding, active: Active) -> None:
    """.aligned: all live threads of a warp execute it together."""
    alive = b.machine.scheduler.alive.reshape(-1, WARP)[active.warps].sum()
    if alive != active.count:
        message = "an .aligned barrier.cluster executed by part of a warp"
        b.machine.report(reports.DIVERGENCE, message, b.instruction, active.lanes[0])


@instruction("barrier.cluster.arrive")
def cluster_arrive(b: Binding) -> Step:
    releases = b.choice("release", "relaxed", default="release") == "release"
    aligned, machine = b.flag("aligned"), b.machine

    def run(active: Active) -> None:
        if aligned:
            check_whole(b, active)
        for barrier, lanes in cluster_barriers(machine).of(active):
            barrier.arrive(b.instruction, lanes, releases)

    return run


@instruction("barrier.cluster.wait")
def cluster_wait(b: Binding) -> Step:
    b.ignore("acquire")
    aligned, machine = b.flag("aligned"), b.machine

    def run(active: Active, pc: int) -> None:
        if aligned:
            check_whole(b, active)
        for barrier, lanes in cluster_barriers(machine).of(active):
            for waits in np.unique(barrier.waits[lanes - barrier.lanes[0]]):  # threads that woke at different times
                barrier.wait(b.instruction, lanes[barrier.waits[lanes - barrier.lanes[0]] == waits], pc)

    return Control(run)


@instruction("st.async", "red.async")
def store_async(b: Binding) -> Step:
    """[address], value, [mbarrier] of the same CTA of the cluster, which is told of the bytes."""
    kind = b.type()
    b.ignore("weak", "relaxed", "cluster", "shared::cluster")
    b.required("mbarrier::complete_tx::bytes")
    combine = None
    if b.instruction.opcode == "red":
        combine = combination(b.required("add", "min", "max", "inc", "dec", "and", "or", "xor"), kind)
    count = b.choice("v2", "v4")
    address, values, barrier = b.address(0), b.sources(1, kind), b.address(2)
    if len(values) != (int(count[1]) if count else 1):
        b.fail(f"{len(values)} values are stored")
    machine, instr, size = b.machine, b.instruction, kind.size * len(values)

    def run(active: Active) -> None:
        _, offsets, good, _ = machine.memory.locate(instr, "st.async", "shared", address(active), size, active)
        signals = mbarriers(machine).locate(b, "shared", barrier(active), active)
        rows = np.stack([b.compact(v, active) for v in values], axis=1).view(np.uint8).reshape(active.count, size)
        stride = machine.memory.shared.stride
        for i, lane in enumerate(active.lanes):
            if good is not None and not good[i]:
                continue
            if int(offsets[i]) // stride != signals[i] // stride:
                message = "the destination and its mbarrier lie in different CTAs: both must be in one"
                machine.report(reports.DESCRIPTOR, message, instr, lane)
            submit(machine, instr, int(lane), offsets[i : i + 1], rows[i : i + 1], signals[i], kind, combine)

    return run


def submit(
    machine: Machine,
    instr: Instruction,
    lane: int,
    offsets: np.ndarray,
    row: np.ndarray,
    signal: int,
    kind: ScalarType,
    combine: Callable[..., np.ndarray] | None,
) -> None:
    """The write of one thread: outside of the async proxy, but in flight until the mbarrier's phase ends."""
    barrier = expect_completion(machine, signal, instr, lane)
    claims, size, shared = shared_claims(machine), row.shape[1], machine.memory.shared
    claims.begin(instr, offsets, size, lane, combine is not None)
    touch_by_agent(machine, instr, offsets, barrier.agent)
    index = int(offsets[0]) + np.arange(size)

    def perform() -> None:
        new = row[0]
        if combine is not None:
            new = combine(shared.data[index].view(kind.dtype), row[0].view(kind.dtype)).astype(kind.dtype).view(np.uint8)
        shared.data[index] = new
        claims.end(instr, offsets, size, barrier.agent, combine is not None)
        touch_by_agent(machine, instr, offsets, barrier.agent)
        complete_tx(barrier, size, instr)

    deliver_to(barrier, machine.engines.get("st.async"), Operation(instr, perform))
