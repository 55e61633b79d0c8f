"""Data races and missing proxy fences in shared memory, by vector clocks.

Agents are the warps of a CTA (of a cluster, if there is one) and whatever else touches shared memory on its own: an
asynchronous operation acts as the agent of what makes it known to be complete, e.g. its mbarrier. Time is the machine's
step counter. clock[w, a] is the last step of agent a that warp w is known to come after; an access by agent a at step s
happened before what warp w does now if and only if s <= clock[w, a]. Synchronisation raises clock entries, nothing else
does: a lucky schedule hides no race.

Memory is watched in cells of `cell` bytes: the smallest write the program makes to shared memory. Every write covers whole
cells, so a read of half a cell meets a write if and only if it meets its bytes. Each cell knows its last write and, for each
agent, its last read. Bytes that an asynchronous operation may still be writing are marked in the arena's state (WRITING),
those it may still be reading are counted here.

The async proxy (TMA, wgmma, tcgen05) sees what threads wrote only after a fence.proxy.async, by the writer or by someone
who comes after it. fenced[w, a] is the last step of agent a whose writes are fenced for whoever comes after warp w; it
travels with the clocks. A fence of the writing lane itself is seen at once, by counting each lane's fences.

What travels from one agent to another is a pair of rows, clock and fenced, of shape (2, agents).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .registers import WARP, Active
from .remote import remote_accesses
from .spaces import MAPPED, WRITING, WRITTEN
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine

ALWAYS = np.iinfo(np.int32).max  # an agent knows everything it did itself


class Sanitizer:
    """Clocks and cells of the resident CTAs."""

    def __init__(self, machine: Machine, cell: int, enabled: bool = True) -> None:
        self.machine = machine
        self.enabled = enabled
        self.cell = cell
        self.home_agents = machine.warps_per_cta * machine.cluster_size  # the warps of a cluster are agents 0, 1, ...
        self.agent_of_warp = np.arange(machine.num_warps) % self.home_agents
        self.reset()

    def reset(self) -> None:
        machine = self.machine
        self.agents: dict[object, int] = {}  # asynchronous agents by name
        self.clock = np.zeros((machine.num_warps, self.home_agents), np.int32)
        self.clock[np.arange(machine.num_warps), self.agent_of_warp] = ALWAYS
        self.fenced = np.zeros_like(self.clock)
        self.fences = np.zeros(machine.lanes, np.int32)  # proxy fences each lane has executed
        cells = machine.memory.shared.size // self.cell if self.enabled else 0
        self.writer = np.zeros(cells, np.int16)
        self.write_step = np.zeros(cells, np.int32)
        self.write_index = np.zeros(cells, np.int32)  # the instruction that wrote, for the message
        self.atomic = np.zeros(cells, bool)
        self.read_step = np.zeros((self.home_agents, cells), np.int32)
        self.readers: np.ndarray | None = None  # for each cell, asynchronous reads in flight
        self.writing_lane = np.full(cells, -1, np.int32)  # the thread that wrote last, -1 if an asynchronous operation did
        self.writing_fence = np.zeros(cells, np.int32)  # its fence count then

    # Clocks.

    def agent(self, name: object) -> int:
        """The column of an asynchronous agent, e.g. ("mbarrier", offset); the same name may serve in every cluster."""
        if name not in self.agents:
            self.agents[name] = self.clock.shape[1]
            self.clock, self.fenced = (np.pad(m, ((0, 0), (0, 1))) for m in (self.clock, self.fenced))
        return self.agents[name]

    def row(self, warp: int) -> np.ndarray:
        """What a warp can pass on now, (2, agents): its clock, with its own entry at the present step, and its fences."""
        rows = np.stack([self.clock[warp], self.fenced[warp]])
        rows[0, self.agent_of_warp[warp]] = self.machine.step
        return rows

    def acquire(self, warps: np.ndarray | int, rows: np.ndarray) -> None:
        """The warps now come after everything in `rows`. Their own entries stay ALWAYS since nothing exceeds it."""
        width = rows.shape[1]
        self.clock[warps, :width] = np.maximum(self.clock[warps, :width], rows[0])
        self.fenced[warps, :width] = np.maximum(self.fenced[warps, :width], rows[1])

    @staticmethod
    def merge(into: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """The later of two pairs of rows, which may differ in length because agents are added as they appear."""
        if into is None:
            return rows.copy()
        width = max(into.shape[1], rows.shape[1])
        return np.maximum(*(np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in (into, rows)))

    def join(self, warps: np.ndarray, group: np.ndarray) -> None:
        """A barrier: warps of the same group (ascending numbers) come after each other's past."""
        if not self.enabled or not len(warps):
            return
        agents = self.agent_of_warp[warps]
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        sizes = np.diff(np.r_[starts, len(group)])
        for matrix in (self.clock, self.fenced):
            rows = matrix[warps]
            if matrix is self.clock:
                rows[np.arange(len(warps)), agents] = self.machine.step
            matrix[warps] = np.repeat(np.maximum.reduceat(rows, starts, axis=0), sizes, axis=0)
        self.clock[warps, agents] = ALWAYS

    def proxy_fence(self, active: Active) -> None:
        """fence.proxy.async: what the executing threads come after is visible to the async proxy for those after them."""
        self.fences[active.index] += 1
        for warp in active.warps:
            known = self.clock[warp].copy()
            own = self.agent_of_warp[warp]
            lanes = slice(warp * WARP, warp * WARP + WARP)
            whole = int(np.count_nonzero(active.mask[lanes])) == int(np.count_nonzero(self.machine.scheduler.alive[lanes]))
            known[own] = self.machine.step if whole else self.fenced[warp, own]  # one lane's fence does not cover the others
            self.fenced[warp] = np.maximum(self.fenced[warp], known)

    def forget_writing_thread(self, offsets: np.ndarray, size: int) -> None:
        """What was just written needs no proxy fence before the async proxy touches it."""
        if self.enabled:
            self.writing_lane[self.cells(offsets, size)] = -1

    def check_proxy(self, instruction: Instruction, offsets: np.ndarray, size: int, rows: np.ndarray, lane: int | None) -> None:
        """The async proxy is about to touch bytes that threads may have written; `rows` is the past of the operation."""
        if not self.enabled:
            return
        cells = self.cells(offsets, size)
        lanes = self.writing_lane[cells]
        unfenced = (lanes >= 0) & (self.fences[lanes] <= self.writing_fence[cells])
        if not unfenced.any():
            return
        fenced = np.pad(rows[1], (0, self.clock.shape[1] - rows.shape[1]))
        unfenced &= self.write_step[cells] > fenced[self.writer[cells]]
        if unfenced.any():
            at, k = np.argwhere(unfenced)[0]
            place = self.machine.memory.place(self.machine.memory.shared, int(cells[at, k]) * self.cell, self.cell)
            writer = self.machine.thread_of(int(lanes[at, k]))[0]
            earlier = self.machine.program[int(self.write_index[cells[at, k]])]
            message = (
                f"the async proxy accesses {place}, which thread {writer} wrote at PTX line {earlier.line} ({earlier.text}), "
            )
            message += "without a fence.proxy.async after the write"
            self.machine.report(reports.PROXY_FENCE, message, instruction, lane, None, int(unfenced.any(axis=1).sum()))

    # Accesses of threads.

    def cells(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """(n, cells of each access)."""
        return offsets[:, None] // self.cell + np.arange(max(size // self.cell, 1))

    def shared_access(
        self,
        instruction: Instruction,
        offsets: np.ndarray,
        size: int,
        active: Active,
        rows: np.ndarray | None,
        atomic: bool = False,
    ) -> None:
        """Before a load (rows is None) or a store of shared memory."""
        machine = self.machine
        if machine.cluster_size > 1:
            remote_accesses(machine).touch(instruction, offsets, active)
        if rows is not None or atomic:
            bad = machine.memory.shared.lacking(offsets, size, WRITING, 0)
            if bad is not None:
                at = int(np.argmax(bad))
                place = machine.memory.place(machine.memory.shared, int(offsets[at]), size)
                message = f"writes {place} while an asynchronous copy may still be writing it (no wait came before)"
                machine.report(reports.IN_FLIGHT, message, instruction, active.lanes[at])
            if self.readers is not None:
                self._check_readers(instruction, offsets, size, active.lanes)
        if not self.enabled:
            return
        cells = self.cells(offsets, size)
        warp = active.warp_of
        agent = self.agent_of_warp[warp]
        self._check_write(
            instruction, cells, self.clock, warp, active.lanes, "writes" if rows is not None else "reads", rows, offsets, atomic
        )
        if rows is None and not atomic:
            self.read_step[agent[:, None], cells] = machine.step
            return
        self._check_reads(instruction, cells, self.clock, warp, active.lanes)
        self.writer[cells] = agent[:, None]
        self.write_step[cells] = machine.step
        self.write_index[cells] = instruction.index
        self.atomic[cells] = atomic
        self.writing_lane[cells] = active.lanes[:, None]
        self.writing_fence[cells] = self.fences[active.lanes][:, None]

    def check_after_write(self, instruction: Instruction, offsets: np.ndarray, size: int, active: Active, verb: str) -> None:
        """What the active threads use here must have been written before, in the order that synchronisation makes."""
        cells = self.cells(offsets, size)
        self._check_write(instruction, cells, self.clock, active.warp_of, active.lanes, verb, None, offsets, False)

    def check_lost_stores(self, instruction: Instruction, offsets: np.ndarray, rows: np.ndarray, active: Active) -> None:
        """After a store: two lanes of the instruction wrote different values to one place."""
        if not self.enabled:
            return
        lost = (self.machine.memory.shared.rows(offsets, rows.shape[1]) != rows).any(axis=1)
        if lost.any():
            at = int(np.argmax(lost))
            place = self.machine.memory.place(self.machine.memory.shared, int(offsets[at]), rows.shape[1])
            message = f"several threads store different values to {place} at once"
            self.machine.report(reports.RACE, message, instruction, active.lanes[at])

    def _check_write(
        self,
        instruction: Instruction,
        cells: np.ndarray,
        clocks: np.ndarray,
        which: np.ndarray,
        lanes: np.ndarray | None,
        verb: str,
        rows: np.ndarray | None,
        offsets: np.ndarray,
        atomic: bool,
    ) -> None:
        """The last write of each cell must come before. clocks[which[i]] is what access i comes after."""
        step = self.write_step[cells]
        conflict = step > clocks[which[:, None], self.writer[cells]]
        if atomic:
            conflict &= ~self.atomic[cells]
        if not conflict.any():
            return
        bad = conflict.any(axis=1)
        if rows is not None:  # writing the value that is there already is harmless, and compilers do it
            bad &= (self.machine.memory.shared.rows(offsets, rows.shape[1]) != rows).any(axis=1)
            if not bad.any():
                return
        at = int(np.argmax(bad))
        cell = cells[at, int(np.argmax(conflict[at]))]
        earlier = self.machine.program[int(self.write_index[cell])]
        place = self.machine.memory.place(self.machine.memory.shared, int(cell) * self.cell, self.cell)
        message = f"{verb} {place}, which {self.agent_name(int(self.writer[cell]))} wrote at PTX line {earlier.line} "
        message += f"({earlier.text}), with no barrier or wait between"
        lane = lanes[at] if lanes is not None else None
        self.machine.report(reports.RACE, message, instruction, lane, None, int(bad.sum()))

    def _check_reads(
        self,
        instruction: Instruction,
        cells: np.ndarray,
        clocks: np.ndarray,
        which: np.ndarray,
        lanes: np.ndarray | None,
    ) -> None:
        """All reads of each cell must come before."""
        known = clocks[which][:, : len(self.read_step)].T[:, :, None]
        conflict = self.read_step[: known.shape[0]][:, cells] > known
        if not conflict.any():
            return
        agent, at, k = (int(x[0]) for x in np.nonzero(conflict))
        place = self.machine.memory.place(self.machine.memory.shared, int(cells[at, k]) * self.cell, self.cell)
        message = f"writes {place}, which {self.agent_name(agent)} reads, with no barrier or wait between the read and this"
        lane = lanes[at] if lanes is not None else None
        self.machine.report(reports.RACE, message, instruction, lane, None, int(conflict.any(axis=(0, 2)).sum()))

    def agent_name(self, agent: int) -> str:
        if agent < self.home_agents:
            rank, warp = divmod(agent, self.machine.warps_per_cta)
            return f"warp {warp}" + (f" of the cluster's CTA {rank}" if self.machine.cluster_size > 1 else "")
        name = next(n for n, a in self.agents.items() if a == agent)
        return f"an operation that completes on {name[0]} {name[1:]}" if isinstance(name, tuple) else f"{name}"

    # Accesses of asynchronous operations. `offsets` are arena offsets, aligned to `size`, a multiple of the cell.

    def begin_async_write(
        self,
        instruction: Instruction,
        offsets: np.ndarray,
        size: int,
        active: Active | None,
        clocks: np.ndarray,
        which: np.ndarray,
        lane: int | None = None,
        atomic: bool = False,
    ) -> None:
        """An asynchronous write was issued: it comes after clocks[which[i]] and nothing else; nobody may touch its bytes.

        For one operation of a thread: active = None, clocks = row(warp)[:1], which = zeros, lane for the messages.
        atomic: it is a reduction, which may come before or after others.
        """
        shared = self.machine.memory.shared
        lanes = active.lanes if active is not None else None if lane is None else np.full(len(offsets), lane)
        bad = shared.lacking(offsets, size, WRITING, 0)
        if bad is not None:
            at = int(np.argmax(bad))
            place = self.machine.memory.place(shared, int(offsets[at]), size)
            message = f"starts an asynchronous write of {place} while an earlier one may still be writing it"
            self.machine.report(reports.IN_FLIGHT, message, instruction, None if lanes is None else lanes[at])
        if self.readers is not None:
            self._check_readers(instruction, offsets, size, lanes)
        if self.enabled:
            cells = self.cells(offsets, size)
            clocks = np.pad(clocks, ((0, 0), (0, self.clock.shape[1] - clocks.shape[1])))
            self._check_write(instruction, cells, clocks, which, lanes, "asynchronously writes", None, offsets, atomic)
            self._check_reads(instruction, cells, clocks, which, lanes)
        shared.set_state(offsets, size, MAPPED | WRITTEN | WRITING)

    def end_async_write(
        self,
        instruction: Instruction,
        offsets: np.ndarray,
        size: int,
        agents: np.ndarray | int,
        atomic: bool = False,
        lanes: np.ndarray | None = None,
    ) -> None:
        """The write is known to be complete, by a wait of these agents (or the agent whose clock waiters will get).

        lanes: it went through the generic proxy (cp.async), on behalf of these threads: the async proxy needs a fence.
        """
        self.machine.memory.shared.set_state(offsets, size, MAPPED | WRITTEN)
        if self.enabled:
            cells = self.cells(offsets, size)
            self.writer[cells] = agents[:, None] if isinstance(agents, np.ndarray) else agents
            self.write_step[cells] = self.machine.step
            self.write_index[cells] = instruction.index
            self.atomic[cells] = atomic
            self.writing_lane[cells] = -1 if lanes is None else lanes[:, None]
            if lanes is not None:
                self.writing_fence[cells] = self.fences[lanes][:, None]

    def begin_async_read(
        self, instruction: Instruction, offsets: np.ndarray, size: int, rows: np.ndarray, lane: int | None, proxy: bool = True
    ) -> None:
        """An asynchronous read was issued by something whose past is `rows`. Nobody may write its bytes until it ends.

        proxy: it goes through the async proxy, so what threads wrote must have been fenced.
        """
        shared = self.machine.memory.shared
        bad = shared.lacking(offsets, size, MAPPED | WRITTEN | WRITING, MAPPED | WRITTEN)
        if bad is not None:
            at = int(np.argmax(bad))
            place = self.machine.memory.place(shared, int(offsets[at]), size)
            if (shared.state[offsets[at] : offsets[at] + size] & WRITING).any():
                message = f"asynchronously reads {place} while an asynchronous operation may still be writing it"
                self.machine.report(reports.IN_FLIGHT, message, instruction, lane, None, int(bad.sum()))
            else:
                message = f"asynchronously reads {place}, which nothing has written"
                self.machine.report(reports.UNINITIALISED, message, instruction, lane, None, int(bad.sum()))
        if proxy:
            self.check_proxy(instruction, offsets, size, rows, lane)
        if self.readers is None:
            self.readers = np.zeros(self.machine.memory.shared.size // self.cell, np.uint16)
        cells = self.cells(offsets, size)
        np.add.at(self.readers, cells.reshape(-1), 1)
        if self.enabled:
            clocks = np.pad(rows[:1], ((0, 0), (0, self.clock.shape[1] - rows.shape[1])))
            lanes = None if lane is None else np.full(len(offsets), lane)
            which = np.zeros(len(cells), np.int64)
            self._check_write(instruction, cells, clocks, which, lanes, "asynchronously reads", None, offsets, False)

    def end_async_read(self, offsets: np.ndarray, size: int, agent: int, step: int | None = None) -> None:
        """The read is known to be complete to `agent`: from now on, or to whoever comes after the agent's `step`."""
        cells = self.cells(offsets, size)
        assert self.readers is not None
        np.subtract.at(self.readers, cells.reshape(-1), 1)
        if self.enabled:
            missing = agent + 1 - len(self.read_step)
            if missing > 0:
                self.read_step = np.concatenate([self.read_step, np.zeros((missing, self.read_step.shape[1]), np.int32)])
            self.read_step[agent, cells] = self.machine.step if step is None else step

    def _check_readers(self, instruction: Instruction, offsets: np.ndarray, size: int, lanes: np.ndarray | None) -> None:
        assert self.readers is not None
        busy = self.readers[self.cells(offsets, size)].any(axis=1)
        if busy.any():
            at = int(np.argmax(busy))
            place = self.machine.memory.place(self.machine.memory.shared, int(offsets[at]), size)
            message = f"writes {place} while an asynchronous operation may still be reading it (no wait came before)"
            self.machine.report(reports.IN_FLIGHT, message, instruction, None if lanes is None else lanes[at])

    def home(self, lane: int) -> int:
        """The agent of a lane's warp."""
        return int(self.agent_of_warp[lane // WARP])
