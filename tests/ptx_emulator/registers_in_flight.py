"""Registers that an asynchronous instruction still writes or reads: wgmma's accumulators and A fragments, tcgen05.ld's results.

Such an instruction works on after it was issued, so the program must wait (wgmma.wait_group, tcgen05.wait::ld) before it
touches the registers again. And wgmma.fence must come between any access of a thread to them and the next wgmma that uses
them; accumulators that pass from one wgmma to another of the same shape need neither.

ptxas 13.0 repairs programs of this kind where it sees them: it injects the wait (its message C7517) or the fence (C7519), and
often serializes every wgmma for it (C7514). They are right but slow on hardware; here they are reported.

Watched are only registers that some asynchronous instruction of the kernel names, so other kernels pay nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .binding import Collective, Control, Step
from .program import operands_in
from .registers import WARP, Active
from .syntax import Address, Instruction, Register

if TYPE_CHECKING:
    from .machine import Machine

CLEAN, NEVER_FENCED = -1, -2


def asynchronous(instruction: Instruction) -> bool:
    return (instruction.opcode, *instruction.modifiers[:1]) in (("wgmma", "mma_async"), ("tcgen05", "ld"))


def registers_in(instruction: Instruction, operands: Sequence[int] | None = None) -> list[str]:
    """The registers that operands of an instruction name, an address's base among them."""
    chosen = instruction.operands if operands is None else [instruction.operands[i] for i in operands]
    return [o.key for o in operands_in(tuple(chosen)) if isinstance(o, Register)]


class RegistersInFlight:
    """For each watched register and each warp: asynchronous writes and reads in flight, and the last access of a thread."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        names = [
            key for i in machine.program if asynchronous(i) for key in registers_in(i, (0, 1) if i.opcode == "wgmma" else (0,))
        ]
        self.index = {key: at for at, key in enumerate(dict.fromkeys(names))}
        self.names = [key.partition("#")[0] for key in self.index]
        self.reset()

    def reset(self) -> None:
        shape = (len(self.index), self.machine.num_warps)
        self.writes, self.reads = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
        self.user = np.zeros(shape, np.int32)  # the asynchronous instruction that is in flight
        self.touched = np.full(shape, NEVER_FENCED, np.int32)  # the instruction that accessed it since the last wgmma.fence
        self.pending = 0

    def numbers(self, keys: Sequence[str]) -> np.ndarray:
        return np.array([self.index[key] for key in keys], np.int64)

    # Other instructions.

    def watch(self, instruction: Instruction, step: Step) -> Step:
        """The step, with a check before it if the instruction names watched registers."""
        if not self.index or asynchronous(instruction):
            return step
        used = [self.index[k] for k in registers_in(instruction) if k in self.index]
        if not used:
            return step
        first = instruction.operands[0]
        written = (
            [] if isinstance(first, Address) else [self.index[k] for k in registers_in(instruction, (0,)) if k in self.index]
        )
        everything, results = (np.array(list(dict.fromkeys(numbers)), np.int64)[:, None] for numbers in (used, written))

        def check(active: Active) -> None:
            warps = active.warps
            if self.pending:
                self._check(instruction, everything, results, active)
            self.touched[everything, warps] = instruction.index

        if isinstance(step, Control):
            run = step.run
            return Control(lambda active, pc: (check(active), run(active, pc))[1])
        if isinstance(step, Collective):
            collect = step.run
            return Collective(lambda active: (check(active), collect(active))[1], step.members)
        if callable(step):
            plain = step
            return lambda active: (check(active), plain(active))[1]
        return step

    def _check(self, instruction: Instruction, everything: np.ndarray, results: np.ndarray, active: Active) -> None:
        warps = active.warps
        writes, reads = self.writes[everything, warps] > 0, self.reads[results, warps] > 0
        if writes.any():
            row, column = np.argwhere(writes)[0]
            number = int(everything[row, 0])
            verb = "writes" if number in results else "reads"
            self._report(instruction, number, int(warps[column]), f"{verb} register {{}}, an accumulator of")
        elif reads.any():
            row, column = np.argwhere(reads)[0]
            self._report(instruction, int(results[row, 0]), int(warps[column]), "overwrites register {}, an A fragment of")

    def _report(self, instruction: Instruction, number: int, warp: int, what: str) -> None:
        user = self.machine.program[int(self.user[number, warp])]
        name = self.names[number]
        if user.opcode == "wgmma":
            message = f"{what.format(name)} wgmma.mma_async at PTX line {user.line}, while it may still be in flight: "
            message += "wgmma.wait_group must come before (and wgmma.commit_group before that)"
        else:
            message = f"{what.format(name).partition(',')[0]} while tcgen05.ld at PTX line {user.line} may still be writing it: "
            message += "tcgen05.wait::ld must come before"
        self.machine.report(reports.IN_FLIGHT, message, instruction, warp * WARP, detail=what)

    # Asynchronous instructions.

    def begin(self, instruction: Instruction, writes: np.ndarray, reads: np.ndarray, warp: int) -> None:
        """The instruction is issued by a warp; `writes` and `reads` are register numbers."""
        self._check_fence(instruction, np.concatenate([writes, reads]), warp)
        if self.pending:
            busy = self.writes[writes, warp] > 0
            same = np.array_equal(self._accumulators(int(self.user[writes[0], warp])), writes)
            if busy.any() and not same:
                self._report(
                    instruction, int(writes[int(np.argmax(busy))]), warp, "accumulates in register {}, an accumulator of"
                )
            for numbers, counts, what in (
                (reads, self.writes, "takes as A fragment register {}, an accumulator of"),
                (writes, self.reads, "accumulates in register {}, an A fragment of"),
            ):
                busy = counts[numbers, warp] > 0
                if busy.any():
                    self._report(instruction, int(numbers[int(np.argmax(busy))]), warp, what)
        self.writes[writes, warp] += 1
        self.reads[reads, warp] += 1
        self.user[writes, warp] = self.user[reads, warp] = instruction.index
        self.pending += 1

    def begin_load(self, instruction: Instruction, writes: np.ndarray, warp: int) -> None:
        """tcgen05.ld is issued by a warp: like `begin`, but wgmma.fence has nothing to do with it."""
        busy = self.writes[writes, warp] > 0
        if busy.any():
            self._report(instruction, int(writes[int(np.argmax(busy))]), warp, "writes register {}")
        self.writes[writes, warp] += 1
        self.user[writes, warp] = instruction.index
        self.pending += 1

    def end(self, writes: np.ndarray, reads: np.ndarray, warp: int) -> None:
        """The warp knows that the instruction is complete."""
        self.writes[writes, warp] -= 1
        self.reads[reads, warp] -= 1
        self.pending -= 1

    def fence(self, warps: np.ndarray) -> None:
        """wgmma.fence: what the warps did to registers comes before their next wgmma."""
        self.touched[:, warps] = CLEAN

    def _accumulators(self, index: int) -> np.ndarray:
        instruction = self.machine.program[index]
        return self.numbers(registers_in(instruction, (0,))) if asynchronous(instruction) else np.zeros(0, np.int64)

    def _check_fence(self, instruction: Instruction, numbers: np.ndarray, warp: int) -> None:
        touched = self.touched[numbers, warp]
        if (touched == CLEAN).all():
            return
        at = int(np.argmax(touched != CLEAN))
        name = self.names[int(numbers[at])]
        message = f"uses register {name} with no wgmma.fence since "
        if touched[at] == NEVER_FENCED:
            message += "the start of the kernel: the first wgmma needs one before it"
        else:
            earlier = self.machine.program[int(touched[at])]
            message += f"PTX line {earlier.line} ({earlier.text}) accessed it"
        self.machine.report(reports.WGMMA_FENCE, message, instruction, warp * WARP)
