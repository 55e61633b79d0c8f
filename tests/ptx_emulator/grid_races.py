"""Races between CTAs in global memory.

Nothing orders two CTAs but what they do themselves: atomics, and loads marked volatile, relaxed or acquire. A CTA that has
done one of these since another CTA's access is taken to be ordered after it (whether the protocol is right is not
checked); one that has not, and touches what the other wrote or overwrites what it read, races. Equal values are no race.
Races between the warps of a CTA are watched in shared memory only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .registers import Active
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine

MANY = -1  # several CTAs have read a cell


class GridRaces:
    """For each cell of global memory: the CTA that wrote last, the CTA that read last, and when. CTAs count from 1."""

    def __init__(self, machine: Machine, cell: int) -> None:
        self.machine, self.cell = machine, cell
        cells = machine.memory.global_space.size // cell
        self.writer, self.reader = np.zeros(cells, np.int32), np.zeros(cells, np.int32)
        self.write_step, self.read_step = np.zeros(cells, np.int32), np.zeros(cells, np.int32)
        self.instruction_at: dict[int, int] = {}  # step of a store -> its instruction
        self.clash: np.ndarray | None = None
        self.synchronised = np.zeros(int(np.prod(machine.grid)) + 1, np.int32)  # the last ordering access of each CTA
        self.fenced = np.zeros_like(self.synchronised)  # its last fence.proxy.async

    def synchronise(self, active: Active) -> None:
        """An atomic or an ordering load."""
        self.synchronised[self.machine.cta_number[active.lanes]] = self.machine.step

    def proxy_fence(self, active: Active) -> None:
        self.fenced[self.machine.cta_number[active.lanes]] = self.machine.step

    def bulk(self, instruction: Instruction, starts: np.ndarray, length: int, lane: int, write: bool) -> None:
        """An asynchronous operation of a thread reads or will write `length` bytes at each start.

        Of what it writes, cells that it covers only in part are left out: their other bytes may be another CTA's.
        """
        first, last = starts // self.cell, -(-(starts + length) // self.cell)
        if write:
            first, last = -(-starts // self.cell), (starts + length) // self.cell
        index = first[:, None] + np.arange(int((last - first).max(initial=0)))
        cells = index[index < last[:, None]]
        if not cells.size:
            return
        cta = int(self.machine.cta_number[lane])
        lanes = np.full(len(cells), lane)
        writer, written, late = self.writer[cells], self.write_step[cells], self.synchronised[cta]
        bad = (writer != cta) & (writer != 0) & (written >= late)
        if bad.any():
            self._report(instruction, bad[:, None], cells[:, None], None, lanes, None, "writes" if write else "reads")
        reader = self.reader[cells]
        if not write:
            self._check_proxy(instruction, cells, writer, written, cta, lane)
            self.reader[cells] = np.where((reader == 0) | (reader == cta), cta, MANY)
            self.read_step[cells] = self.machine.step
            return
        bad = (reader != cta) & (reader != 0) & (self.read_step[cells] >= late)
        if bad.any():
            self._report(instruction, bad[:, None], cells[:, None], None, lanes, None, "overwrites")
        self.writer[cells] = cta
        self.write_step[cells] = self.machine.step
        self.instruction_at[self.machine.step] = instruction.index

    def _check_proxy(
        self, instruction: Instruction, cells: np.ndarray, writer: np.ndarray, written: np.ndarray, cta: int, lane: int
    ) -> None:
        """The async proxy reads what threads of this kernel wrote: the writer's CTA or this one must have fenced since."""
        bad = (writer != 0) & (written > np.maximum(self.fenced[writer], self.fenced[cta]))
        for step in np.unique(written[bad]):
            earlier = self.machine.program[self.instruction_at[int(step)]]
            if earlier.opcode != "cp":  # a bulk copy is in the async proxy itself
                at = int(np.argmax(bad & (written == step)))
                place = self.machine.memory.place(self.machine.memory.global_space, int(cells[at]) * self.cell, self.cell)
                message = f"the async proxy reads {place}, which a thread of CTA {self._name(int(writer[at]))} wrote at PTX line "
                message += f"{earlier.line} ({earlier.text}), without a fence.proxy.async after the write"
                self.machine.report(reports.PROXY_FENCE, message, instruction, lane)
                return

    def access(self, instruction: Instruction, offsets: np.ndarray, size: int, active: Active, rows: np.ndarray | None) -> None:
        """Before a load (rows is None) or a store. After a store comes `stored`."""
        each = max(size // self.cell, 1)
        cta = self.machine.cta_number[active.index][:, None]
        index = offsets[:, None] // self.cell + np.arange(each)
        cells: slice | np.ndarray = index
        if size >= self.cell and (offsets[1:] - offsets[:-1] == size).all():  # side by side: slices are much faster
            cells = slice(int(index[0, 0]), int(index[0, 0]) + index.size)
        shape = index.shape
        late = self.synchronised[cta]

        writer = self.writer[cells].reshape(shape)
        if writer.any():
            bad = (writer != cta) & (writer != 0) & (self.write_step[cells].reshape(shape) >= late)
            if bad.any():
                self._report(instruction, bad, index, offsets, active.lanes, rows, "reads" if rows is None else "writes")
        reader = self.reader[cells].reshape(shape)
        step = self.machine.step
        if rows is None:
            if reader.any():
                cta = np.where((reader == 0) | (reader == cta), cta, MANY)
            self.reader[cells] = np.broadcast_to(cta, shape).reshape(self.reader[cells].shape)
            self.read_step[cells] = step
            return
        if reader.any():
            bad = (reader != cta) & (reader != 0) & (self.read_step[cells].reshape(shape) >= late)
            if bad.any():
                self._report(instruction, bad, index, offsets, active.lanes, rows, "overwrites")
        self.writer[cells] = np.broadcast_to(cta, shape).reshape(self.writer[cells].shape)
        self.write_step[cells] = step
        self.instruction_at[step] = instruction.index
        if not isinstance(cells, slice):
            clash = self.writer[index] != cta  # two CTAs in this very instruction
            self.clash = clash if clash.any() else None

    def stored(self, instruction: Instruction, offsets: np.ndarray, active: Active, rows: np.ndarray) -> None:
        """After a store: if CTAs met within the instruction, one of them has lost its value unless both wrote the same."""
        if self.clash is None:
            return
        lost = (self.machine.memory.global_space.rows(offsets, rows.shape[1]) != rows).any(axis=1)
        if lost.any():
            at = int(np.argmax(lost))
            space = self.machine.memory.global_space
            cell = int(offsets[at]) // self.cell
            message = f"writes {self.machine.memory.place(space, int(offsets[at]), rows.shape[1])}, which CTA "
            message += f"{self._name(int(self.writer[cell]))} writes at the same time; nothing orders the two CTAs"
            self.machine.report(reports.RACE, message, instruction, active.lanes[at], None, int(lost.sum()))
        self.clash = None

    def _report(
        self,
        instruction: Instruction,
        bad: np.ndarray,
        index: np.ndarray,
        offsets: np.ndarray | None,
        of_lane: np.ndarray,
        rows: np.ndarray | None,
        verb: str,
    ) -> None:
        lanes = bad.any(axis=1)
        space = self.machine.memory.global_space
        if rows is not None and offsets is not None:  # writing what is there already is harmless
            lanes &= (space.rows(offsets, rows.shape[1]) != rows).any(axis=1)
            if not lanes.any():
                return
        at = int(np.argmax(lanes))
        cell = int(index[at, int(np.argmax(bad[at]))])
        place = self.machine.memory.place(space, cell * self.cell, self.cell)
        if verb == "overwrites":
            other = int(self.reader[cell])
            whose = "other CTAs read" if other == MANY else f"CTA {self._name(other)} reads"
        else:
            earlier = self.machine.program[self.instruction_at[int(self.write_step[cell])]]
            whose = f"CTA {self._name(int(self.writer[cell]))} writes at PTX line {earlier.line} ({earlier.text})"
        message = f"{verb} {place}, which {whose}; nothing orders the two CTAs"
        self.machine.report(reports.RACE, message, instruction, of_lane[at], None, int(lanes.sum()))

    def _name(self, number: int) -> tuple[int, int, int]:
        x, y, _ = self.machine.grid
        return (number - 1) % x, (number - 1) // x % y, (number - 1) // (x * y)
