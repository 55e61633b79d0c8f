"""Races in global memory: between CTAs, and between the warps of one.

Warps of a CTA, or of a cluster, are ordered by what orders them in shared memory too, barriers and mbarriers: the clocks of
sanitizer.py. Nothing orders CTAs of different clusters but what they do themselves: atomics, and loads marked volatile, relaxed
or acquire. A CTA that has done one of these since another CTA's access is taken to be ordered after it (whether the protocol
is right is not checked), and so is, within a CTA, a warp that has done one or comes after a warp that has. Whoever is not
ordered and touches what another wrote, or overwrites what another read, races. Equal values are no race.

Of the warps of a CTA that have read a cell only the last is known: a write that is ordered after that one and not after an
earlier one is missed. Of CTAs, those are known to be several that have read it with no ordering access of the later between; then
a cluster barrier counts as an ordering access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .registers import WARP, Active
from .spaces import sparse_zeros
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine


class GridRaces:
    """For each cell of global memory: the warp that wrote last, the warp that read last, and when.

    A warp is cta << shift | warp in its CTA, CTAs counted from 1 in the order of running. As reader it is negative if several
    CTAs have read, unordered.
    """

    def __init__(self, machine: Machine, cell: int) -> None:
        self.machine, self.cell = machine, cell
        cells = machine.memory.global_space.size // cell
        self.shift = (machine.warps_per_cta - 1).bit_length()
        self.writer, self.reader = sparse_zeros(cells, np.int32), sparse_zeros(cells, np.int32)
        self.write_step, self.read_step = sparse_zeros(cells, np.int32), sparse_zeros(cells, np.int32)
        self.instruction_at: dict[int, int] = {}  # step of a store -> its instruction
        self.clash: np.ndarray | None = None
        self.synchronised = np.zeros(machine.running + 1, np.int32)  # the last ordering access of each CTA
        self.fenced = np.zeros_like(self.synchronised)  # its last fence.proxy.async
        self.gathered = np.zeros_like(self.synchronised)  # its last cluster barrier
        self.place()

    def place(self) -> None:
        """Other CTAs are resident now."""
        machine = self.machine
        warp = np.arange(machine.lanes) // WARP
        self.who = (machine.cta_number << self.shift | warp % machine.warps_per_cta).astype(np.int32)
        self.ordered = np.zeros(machine.num_warps, np.int32)  # the last ordering access of each resident warp
        self.first_warp = np.full(len(self.synchronised), -1)  # of each CTA that is resident
        numbers = machine.cta_number[:: machine.lanes_per_cta][::-1]  # the first comes last: empty places have its number too
        self.first_warp[numbers] = np.arange(0, machine.num_warps, machine.warps_per_cta)[::-1]

    def synchronise(self, active: Active) -> None:
        """An atomic or an ordering load."""
        self.synchronised[self.machine.cta_number[active.lanes]] = self.machine.step
        self.ordered[active.warps] = self.machine.step

    def cluster_barrier(self, lanes: np.ndarray) -> None:
        """The lanes have passed a barrier of their cluster."""
        self.gathered[self.machine.cta_number[lanes]] = self.machine.step

    def proxy_fence(self, active: Active) -> None:
        self.fenced[self.machine.cta_number[active.lanes]] = self.machine.step

    # What is unordered.

    def unordered(self, then: np.ndarray, step: np.ndarray, now: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(by another CTA, by another warp of the CTA): which earlier accesses nothing orders before those of `now`.

        then, step: (n, k) warps and steps of the earlier accesses; now, lanes: (n, 1).
        """
        there, here = np.abs(then) >> self.shift, now >> self.shift
        foreign = ((there != here) & (then != 0)) | (then < 0)
        if foreign.any():
            foreign &= step >= self._synchronised(here, then)
            if self.machine.cluster_size > 1:
                foreign &= step > self._known_in_cluster(then, there, lanes)
        inner = (then != now) & (there == here) & (then > 0)
        if inner.any():
            inner &= step > self._known(then, lanes)
            if inner.any():
                inner &= step >= self._ordered_since(lanes)
        return foreign, inner

    def _known(self, then: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The last step of each earlier warp that the warps of the lanes come after."""
        sanitizer, per_cta = self.machine.sanitizer, self.machine.warps_per_cta
        warps = lanes // WARP
        agents = sanitizer.agent_of_warp[warps] - warps % per_cta + (then & (1 << self.shift) - 1)
        return sanitizer.clock[warps, np.where(agents < sanitizer.home_agents, agents, 0)]

    def _known_in_cluster(self, then: np.ndarray, there: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The last step of each earlier warp, of a CTA of the same cluster, that the lanes' warps come after; else -1."""
        sanitizer, first = self.machine.sanitizer, self.first_warp[there]
        same = (then > 0) & (first >= 0) & (first // sanitizer.home_agents == lanes // WARP // sanitizer.home_agents)
        agents = sanitizer.agent_of_warp[np.where(same, first + (then & (1 << self.shift) - 1), 0)]
        return np.where(same, sanitizer.clock[lanes // WARP, agents], -1)

    def _ordered_since(self, lanes: np.ndarray) -> np.ndarray:
        """The last ordering access that a lane's warp has done or comes after, of its CTA."""
        sanitizer, per_cta = self.machine.sanitizer, self.machine.warps_per_cta
        found = np.zeros(self.machine.num_warps, np.int32)
        for warp in np.unique(lanes // WARP):
            first, agent = warp - warp % per_cta, sanitizer.agent_of_warp[warp] - warp % per_cta
            done, known = self.ordered[first : first + per_cta], sanitizer.clock[warp, agent : agent + per_cta]
            found[warp] = np.where(done <= known, done, 0).max()
        return found[lanes // WARP]

    # Accesses.

    def access(self, instruction: Instruction, offsets: np.ndarray, size: int, active: Active, rows: np.ndarray | None) -> None:
        """Before a load (rows is None) or a store. After a store comes `stored`."""
        each = max(size // self.cell, 1)
        now = self.who[active.index][:, None]
        index = offsets[:, None] // self.cell + np.arange(each)
        cells: slice | np.ndarray = index
        if size >= self.cell and (offsets[1:] - offsets[:-1] == size).all():  # side by side: slices are much faster
            cells = slice(int(index[0, 0]), int(index[0, 0]) + index.size)
        shape, step = index.shape, self.machine.step
        writer = self.writer[cells].reshape(shape)
        if writer.any() and (writer != now).any():
            verb = "reads" if rows is None else "writes"
            earlier = writer, self.write_step[cells].reshape(shape)
            self._check(instruction, earlier, now, index, offsets, active.lanes, rows, verb)
        reader = self.reader[cells].reshape(shape)
        known = reader.any()
        if rows is None:
            reader = self._readers(reader, self.read_step[cells].reshape(shape), now) if known else np.broadcast_to(now, shape)
            self.reader[cells] = reader.reshape(self.reader[cells].shape)
            self.read_step[cells] = step
            if not isinstance(cells, slice):
                last = self.reader[index]
                meet = np.abs(last) >> self.shift != now >> self.shift  # two CTAs in this very instruction
                if meet.any():
                    self.reader[index[meet]] = -np.abs(last[meet])
            return
        if known and (reader != now).any():
            earlier = reader, self.read_step[cells].reshape(shape)
            self._check(instruction, earlier, now, index, offsets, active.lanes, rows, "overwrites")
        self.writer[cells] = np.broadcast_to(now, shape).reshape(self.writer[cells].shape)
        self.write_step[cells] = step
        self.instruction_at[step] = instruction.index
        if not isinstance(cells, slice):
            clash = self.writer[index] != now  # two warps in this very instruction
            self.clash = clash if clash.any() else None

    def _readers(self, before: np.ndarray, step: np.ndarray, now: np.ndarray) -> np.ndarray:
        """The new readers. Whoever is ordered after this one is so after those too that this one's CTA is ordered after."""
        here = now >> self.shift
        several = (before < 0) | ((before >> self.shift != here) & (before != 0))
        return np.where(several & (step >= self._synchronised(here, before)), -now, now)

    def _synchronised(self, here: np.ndarray, then: np.ndarray) -> np.ndarray:
        """The last ordering access of each CTA `here`, with regard to the accesses of `then`."""
        late = self.synchronised[here]
        return np.where(then < 0, np.maximum(late, self.gathered[here]), late)

    def bulk(self, instruction: Instruction, starts: np.ndarray, length: int, lane: int, write: bool) -> None:
        """An asynchronous operation of a thread reads or will write `length` bytes at each start.

        Of what it writes, cells that it covers only in part are left out: their other bytes may be another CTA's.
        """
        first, last = starts // self.cell, -(-(starts + length) // self.cell)
        if write:
            first, last = -(-starts // self.cell), (starts + length) // self.cell
        index = first[:, None] + np.arange(int((last - first).max(initial=0)))
        cells = index[index < last[:, None]][:, None]
        if not cells.size:
            return
        lanes = np.full(len(cells), lane)
        now = np.full(cells.shape, self.who[lane])
        written = self.writer[cells], self.write_step[cells]
        self._check(instruction, written, now, cells, None, lanes, None, "writes" if write else "reads")
        if not write:
            self._check_proxy(instruction, cells[:, 0], written[0][:, 0], written[1][:, 0], lane)
            self.reader[cells] = self._readers(self.reader[cells], self.read_step[cells], now)
            self.read_step[cells] = self.machine.step
            return
        self._check(instruction, (self.reader[cells], self.read_step[cells]), now, cells, None, lanes, None, "overwrites")
        self.writer[cells] = now
        self.write_step[cells] = self.machine.step
        self.instruction_at[self.machine.step] = instruction.index

    def _check_proxy(
        self, instruction: Instruction, cells: np.ndarray, writer: np.ndarray, written: np.ndarray, lane: int
    ) -> None:
        """The async proxy reads what threads of this kernel wrote: the writer's CTA or this one must have fenced since."""
        here = self.fenced[self.machine.cta_number[lane]]
        bad = (writer != 0) & (written > np.maximum(self.fenced[writer >> self.shift], here))
        for step in np.unique(written[bad]):
            earlier = self.machine.program[self.instruction_at[int(step)]]
            if earlier.opcode != "cp":  # a bulk copy is in the async proxy itself
                at = int(np.argmax(bad & (written == step)))
                place = self.machine.memory.place(self.machine.memory.global_space, int(cells[at]) * self.cell, self.cell)
                message = f"the async proxy reads {place}, which a thread of CTA {self._cta(int(writer[at]))} wrote at PTX line "
                message += f"{earlier.line} ({earlier.text}), without a fence.proxy.async after the write"
                self.machine.report(reports.PROXY_FENCE, message, instruction, lane)
                return

    def stored(self, instruction: Instruction, offsets: np.ndarray, active: Active, rows: np.ndarray) -> None:
        """After a store: if warps met within the instruction, one of them has lost its value unless both wrote the same."""
        if self.clash is None:
            return
        lost = (self.machine.memory.global_space.rows(offsets, rows.shape[1]) != rows).any(axis=1)
        if lost.any():
            at = int(np.argmax(lost))
            space = self.machine.memory.global_space
            other, lane = int(self.writer[int(offsets[at]) // self.cell]), int(active.lanes[at])
            foreign = other >> self.shift != int(self.who[lane]) >> self.shift
            whose, what = self._other(other, foreign)
            message = f"writes {self.machine.memory.place(space, int(offsets[at]), rows.shape[1])}, which {whose} "
            message += f"writes at the same time; {what}"
            self.machine.report(reports.RACE, message, instruction, lane, None, int(lost.sum()))
        self.clash = None

    def _check(
        self,
        instruction: Instruction,
        earlier: tuple[np.ndarray, np.ndarray],
        now: np.ndarray,
        index: np.ndarray,
        offsets: np.ndarray | None,
        lanes: np.ndarray,
        rows: np.ndarray | None,
        verb: str,
    ) -> None:
        """Report what is unordered. `earlier`: warps and steps; index: cells; offsets and rows of a store by threads."""
        found = self.unordered(*earlier, now, lanes[:, None])
        space = self.machine.memory.global_space
        for bad, foreign in zip(found, (True, False), strict=True):
            who = bad.any(axis=1)
            if rows is not None and offsets is not None and who.any():  # writing what is there already is harmless
                who &= (space.rows(offsets, rows.shape[1]) != rows).any(axis=1)
            if not who.any():
                continue
            at = int(np.argmax(who))
            k = int(np.argmax(bad[at]))
            place = self.machine.memory.place(space, int(index[at, k]) * self.cell, self.cell)
            other = int(earlier[0][at, k])
            whose, what = self._other(other, foreign)
            if verb == "overwrites":
                whose += " read" if other < 0 else " reads"
            else:
                then = self.machine.program[self.instruction_at[int(earlier[1][at, k])]]
                whose += f" writes at PTX line {then.line} ({then.text})"
            message = f"{verb} {place}, which {whose}; {what}"
            self.machine.report(reports.RACE, message, instruction, lanes[at], None, int(who.sum()))

    def _other(self, other: int, foreign: bool) -> tuple[str, str]:
        """(who, what is missing)."""
        if other < 0:
            return "other CTAs", "nothing orders the two CTAs"
        if foreign:
            return f"CTA {self._cta(other)}", "nothing orders the two CTAs"
        return f"warp {other & (1 << self.shift) - 1} of the CTA", "no barrier orders the two warps"

    def _cta(self, who: int) -> tuple[int, int, int]:
        x, y, z = self.machine.index_of(self.machine.placed[(who >> self.shift) - 1])
        return x, y, z
