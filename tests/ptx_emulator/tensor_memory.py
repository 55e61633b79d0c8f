"""Tensor memory (TMEM) of sm_100: 128 lanes x 512 columns of 32-bit words for each CTA, and who may touch what, when.

A tensor memory address is lane << 16 | column. Columns are allocated in powers of two from 32 on. Nothing but tcgen05 touches
tensor memory, and all that does is asynchronous. So the agents here (see sanitizer.py) are, for each warp of a CTA,

    "pipeline"  its tcgen05.mma and tcgen05.cp, which execute in the order of issue; known to be complete by a tcgen05.commit and
                the mbarrier that it arrives on
    "ld", "st"  its loads and stores, known to be complete to the warp itself by tcgen05.wait::ld and ::st

An operation is an event of its agent at the step of its issue. commit releases the pipeline's agent at its own step through the
mbarrier, wait::ld and ::st raise the warp's own clock, and any synchronisation carries these further; an access that does not
come after an earlier one that it conflicts with is a finding, whatever the schedule was.

Order is watched in cells of 16 lanes x 1 column, which is what all instructions supported here move whole; initialisation word
by word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import reports
from .machine import Machine
from .registers import WARP
from .sanitizer import ALWAYS
from .syntax import Instruction
from .tcgen05_fences import Tcgen05Fences

LANES, COLUMNS, CELL_LANES, UNIT = 128, 512, 16, 32
FRESH_WORD = 0xCDCDCDCD
REMEDIES = {
    "pipeline": "a tcgen05.commit after it, and a wait for the mbarrier that it arrives on, must come before",
    "ld": "tcgen05.wait::ld must come after it",
    "st": "tcgen05.wait::st must come after it",
}


@dataclass(frozen=True, eq=False)
class Allocation:
    """Columns of one CTA."""

    cta: int
    first: int
    columns: int
    instruction: Instruction


@dataclass(frozen=True, eq=False)
class Region:
    """Lanes x columns that an operation touches."""

    cta: int
    lanes: np.ndarray
    first: int
    columns: int

    @cached_property
    def words(self) -> tuple[int, np.ndarray, np.ndarray]:
        return self.cta, self.lanes[:, None], np.arange(self.first, self.first + self.columns)

    @cached_property
    def cells(self) -> tuple[int, np.ndarray, slice]:
        groups = np.flatnonzero(np.bincount(self.lanes // CELL_LANES, minlength=LANES // CELL_LANES))
        return self.cta, groups, slice(self.first, self.first + self.columns)

    def __str__(self) -> str:
        low, high = int(self.lanes.min()), int(self.lanes.max())
        return f"lanes {low} to {high}, columns {self.first} to {self.first + self.columns - 1} of tensor memory"


class Readers:
    """When one agent last read each cell, and by which instruction."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.step = np.zeros(shape, np.int32)
        self.index = np.zeros(shape, np.int32)


class TensorMemory:
    """The tensor memories of the resident CTAs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        words, cells = (machine.ctas, LANES, COLUMNS), (machine.ctas, LANES // CELL_LANES, COLUMNS)
        self.data = np.full(words, FRESH_WORD, np.uint32)
        self.written = np.zeros(words, bool)
        self.owner: list[list[Allocation | None]] = [[None] * (COLUMNS // UNIT) for _ in range(machine.ctas)]
        self.freed: list[dict[int, Instruction]] = [{} for _ in range(machine.ctas)]  # unit -> its last tcgen05.dealloc
        self.relinquished: list[Instruction | None] = [None] * machine.ctas
        self.sleepers: list[list[np.ndarray]] = [[] for _ in range(machine.ctas)]  # lanes that wait for columns
        self.writer = np.zeros(cells, np.int16)
        self.write_step = np.zeros(cells, np.int32)
        self.write_index = np.zeros(cells, np.int32)
        self.readers: dict[int, Readers] = {}
        self.agents: dict[tuple[str, int], int] = {}
        self.owners: dict[int, tuple[str, int]] = {}  # agent -> (what, number of the warp in its CTA)
        self.fences = Tcgen05Fences(machine) if machine.policy.tcgen05_fences == "explicit" else None
        machine.scheduler.exit_hooks.append(self.ended)

    # Agents.

    def agent(self, what: str, warp: int) -> int:
        """The agent of a warp's "pipeline", "ld" or "st"."""
        machine = self.machine
        home = warp % machine.sanitizer.home_agents
        if (what, home) not in self.agents:
            rank, number = divmod(home, machine.warps_per_cta)
            name = {"pipeline": "tcgen05", "ld": "tcgen05.ld", "st": "tcgen05.st"}[what] + f" of warp {number}"
            name += f" of the cluster's CTA {rank}" if machine.cluster_size > 1 else ""
            agent = machine.sanitizer.agent(name)
            self.agents[what, home] = agent
            self.owners[agent] = what, number
            if self.fences is not None and what != "pipeline":
                self.fences.twin(agent)
        return self.agents[what, home]

    def past(self, warp: int) -> np.ndarray:
        """What a pipelined operation of a warp comes after, (2, agents): the warp's past and the pipeline itself."""
        agent = self.agent("pipeline", warp)
        rows = self.machine.sanitizer.row(warp)
        rows[0, agent] = ALWAYS
        return rows

    def learn(self, what: str, warp: int) -> None:
        """The warp knows its loads or stores so far to be complete."""
        agent = self.agent(what, warp)
        self.machine.sanitizer.clock[warp, agent] = self.machine.step
        if self.fences is not None:
            self.fences.learn(warp, agent)

    def fence(self, warp: int, before: bool) -> None:
        """tcgen05.fence::before_thread_sync or ::after_thread_sync."""
        if self.fences is not None and before:
            self.fences.before(warp, [self.agent(what, warp) for what in ("ld", "st")])
        elif self.fences is not None:
            self.fences.after(warp)

    # Allocation.

    def find(self, cta: int, columns: int) -> int | None:
        """Where columns are free: the first place in lockstep, any otherwise."""
        owner, units = self.owner[cta], columns // UNIT
        places = [p for p in range(0, len(owner) - units + 1, units) if not any(owner[p : p + units])]
        if not places:
            return None
        random = self.machine.policy.schedule == "random"
        return UNIT * (places[int(self.machine.rng.integers(len(places)))] if random else places[0])

    def allocate(self, cta: int, first: int, columns: int, instr: Instruction) -> None:
        owner, span = Allocation(cta, first, columns, instr), slice(first, first + columns)
        self.owner[cta][first // UNIT : (first + columns) // UNIT] = [owner] * (columns // UNIT)
        self.written[cta, :, span] = False
        self.data[cta, :, span] = FRESH_WORD
        self.write_step[cta, :, span] = 0
        for readers in self.readers.values():
            readers.step[cta, :, span] = 0

    def deallocate(self, cta: int, first: int, columns: int, instr: Instruction, lane: int) -> None:
        found = self.owner[cta][first // UNIT] if first % UNIT == 0 and first < COLUMNS else None
        if found is None or (found.first, found.columns) != (first, columns):
            known = sorted({(a.first, a.columns) for a in self.owner[cta] if a is not None})
            message = f"deallocates {columns} tensor memory columns from {first} on, which is no allocation; there are: "
            message += ", ".join(f"{n} from {at}" for at, n in known) or "none"
            self.machine.stop(reports.RESOURCES, message, instr, lane)
        region = Region(cta, np.arange(LANES), first, columns)
        if self.machine.sanitizer.enabled:
            self._check(instr, region, self.machine.sanitizer.clock[lane // WARP], None, "deallocates ", lane, True)
        units = range(first // UNIT, (first + columns) // UNIT)
        self.owner[cta][units.start : units.stop] = [None] * len(units)
        self.freed[cta].update(dict.fromkeys(units, instr))
        for lanes in self.sleepers[cta]:
            self.machine.scheduler.wake(lanes)
        self.sleepers[cta].clear()

    def ended(self, lanes: np.ndarray) -> None:
        """Threads exit: what their CTA has allocated must have been deallocated when the last one does."""
        machine = self.machine
        for cta in np.unique(machine.cta_of[lanes]):
            if machine.scheduler.alive[machine.cta_of == cta].any():
                continue
            for found in dict.fromkeys(a for a in self.owner[cta] if a is not None):
                message = f"the CTA ended with {found.columns} tensor memory columns allocated: tcgen05.dealloc is missing"
                machine.report(reports.RESOURCES, message, found.instruction, int(lanes[0]))

    # Accesses.

    def region(self, instr: Instruction, lane: int, lanes: np.ndarray, first: int, columns: int, what: str) -> Region:
        """Lanes x columns of the lane's CTA. Stops if they are not all of one allocation. `what`: for messages."""
        machine = self.machine
        cta = int(machine.cta_of[lane])
        region = Region(cta, lanes, first, columns)
        if first < 0 or first + columns > COLUMNS or int(lanes.max()) >= LANES:
            message = f"{what} takes {region}, which has {LANES} lanes and {COLUMNS} columns"
            machine.stop(reports.OUT_OF_BOUNDS, message, instr, lane)
        units = range(first // UNIT, (first + columns - 1) // UNIT + 1)
        found = [self.owner[cta][u] for u in units]
        if None in found:
            unit = units[found.index(None)]
            gone = self.freed[cta].get(unit)
            message = f"{what} takes {region}, and column {max(unit * UNIT, first)} on is not allocated"
            if gone is not None:
                message += f": PTX line {gone.line} ({gone.text}) has deallocated it"
            machine.stop(reports.OUT_OF_BOUNDS if gone is None else reports.FREED, message, instr, lane)
        if found[0] is not found[-1]:
            assert found[0] is not None
            end = found[0].first + found[0].columns
            message = f"{what} takes {region}, of which column {end} on belongs to another allocation"
            machine.stop(reports.OUT_OF_BOUNDS, message, instr, lane)
        return region

    def reads(self, instr: Instruction, region: Region, agent: int, clock: np.ndarray, lane: int, what: str = "") -> None:
        """An operation that reads is issued; it comes after `clock`. `what`: which operand it is, for messages."""
        missing = ~self.written[region.words]
        if missing.any():
            at = np.argwhere(missing)[0]
            place = f"lane {int(region.lanes[at[0]])}, column {region.first + int(at[1])}"
            message = f"reads {what}{region}; nothing has written {place}"
            self.machine.report(reports.UNINITIALISED, message, instr, lane, count=int(missing.sum()), detail=what)
        if not self.machine.sanitizer.enabled:
            return
        self._check(instr, region, clock, agent, f"reads {what}", lane, False)
        if agent not in self.readers:
            self.readers[agent] = Readers(self.write_step.shape)
        readers = self.readers[agent]
        cta, groups, columns = region.cells
        readers.step[cta, groups, columns] = self.machine.step
        readers.index[cta, groups, columns] = instr.index

    def writes(self, instr: Instruction, region: Region, agent: int, clock: np.ndarray, lane: int, verb: str = "writes ") -> None:
        """An operation that writes is issued."""
        if self.machine.sanitizer.enabled:
            self._check(instr, region, clock, agent, verb, lane, True)
            cta, groups, columns = region.cells
            self.writer[cta, groups, columns] = agent
            self.write_step[cta, groups, columns] = self.machine.step
            self.write_index[cta, groups, columns] = instr.index
        self.written[region.words] = True

    def _check(
        self, instr: Instruction, region: Region, clock: np.ndarray, me: int | None, verb: str, lane: int, writes: bool
    ) -> None:
        """Earlier writes, and reads if this writes, must come before. `me`: the operation's agent, None for deallocation."""
        cta, groups, columns = region.cells
        clock = np.pad(clock, (0, self.machine.sanitizer.clock.shape[1] - len(clock)))
        earlier = [(self.write_step, self.writer[cta, groups, columns], self.write_index, "writing", "written")]
        if writes:
            earlier += [(r.step, np.int16(agent), r.index, "reading", "read") for agent, r in self.readers.items()]
        for steps, agent, index, act, done in earlier:
            step = steps[cta, groups, columns]
            late = step > clock[agent]
            unfenced = late
            if self.fences is not None and me is not None and not late.any():
                unfenced = step > self.fences.known(lane // WARP, agent)
                if self.owners[me][0] == "pipeline":
                    unfenced &= agent != me
            if unfenced.any():
                group, column = np.argwhere(unfenced)[0]
                who = int(np.broadcast_to(agent, step.shape)[group, column])
                by = self.machine.program[int(index[cta, groups, columns][group, column])]
                when = int(step[group, column])
                self._report(instr, region, verb, lane, who, by, when, (act, done), bool(late.any()))
                return

    def _report(
        self,
        instr: Instruction,
        region: Region,
        verb: str,
        lane: int,
        agent: int,
        earlier: Instruction,
        step: int,
        words: tuple[str, str],
        late: bool,
    ) -> None:
        """`late`: no synchronisation orders them, else nothing but a fence is missing."""
        machine = self.machine
        what, number = self.owners[agent]
        name = f"{earlier.opcode}.{earlier.modifiers[0]} of warp {number} at PTX line {earlier.line}"
        act, done = words
        if not late:
            message = f"{verb}{region}, which {name} has {done}, and lacks a fence: tcgen05.fence::after_thread_sync between "
            message += "the synchronisation that orders this after it and this"
            message += "" if what == "pipeline" else ", or ::before_thread_sync between it and the synchronisation"
            machine.report(reports.TCGEN05_FENCE, message, instr, lane, detail=verb)
            return
        owner = region.cta * machine.warps_per_cta + number
        if what != "pipeline" and machine.sanitizer.clock[owner, agent] >= step:  # its own warp has waited
            message = f"{verb}{region}, which {name} has {done}; no barrier orders this after its tcgen05.wait::{what}"
            machine.report(reports.RACE, message, instr, lane, detail=verb)
            return
        message = f"{verb}{region} while {name} may still be {act} it: {REMEDIES[what]}"
        machine.report(reports.IN_FLIGHT, message, instr, lane, detail=verb)


def tensor_memory(machine: Machine) -> TensorMemory:
    return machine.family_state("tensor memory", lambda: TensorMemory(machine))
