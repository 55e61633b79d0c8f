"""setmaxnreg: warps pass registers on through a pool of their CTA.

All warps start with what the kernel was launched with, and the pool is empty. `dec` gives registers to it at once, `inc`
takes them and sleeps until there are enough. Nothing here limits what a thread uses: PTX has as many registers as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import reports
from ..binding import Binding, Control, Step, instruction
from ..machine import REGISTERS, Machine
from ..registers import WARP, Active
from ..syntax import Instruction
from .ldmatrix import whole_warps

GROUP = 4  # warps of a warpgroup


@dataclass(frozen=True)
class Shortage:
    """Why a warp sleeps. `pool`: what its CTA has."""

    pools: RegisterPools
    cta: int
    wanted: int
    count: int

    def __str__(self) -> str:
        pools = self.pools
        return (
            f"{self.wanted} registers of its warp to get to {self.count} each (the CTA's pool has {pools.free[self.cta]}; "
            f"{pools.at_launch} a thread at launch are {pools.total} in all, setmaxnreg.dec gives to the pool),"
        )


class RegisterPools:
    """What each warp has and what each CTA's pool holds."""

    def __init__(self, machine: Machine, at_launch: int) -> None:
        self.machine, self.at_launch = machine, at_launch
        self.total = at_launch * WARP * machine.warps_per_cta
        self.owned = np.full(machine.num_warps, at_launch)
        self.free = np.zeros(machine.ctas, np.int64)
        self.done: list[list[Instruction]] = [[] for _ in range(machine.num_warps)]  # what each warp has executed
        self.sleepers: list[list[int]] = [[] for _ in range(machine.ctas)]
        machine.scheduler.exit_hooks.append(self.ended)

    def change(self, instr: Instruction, warp: int, count: int, grow: bool, pc: int) -> None:
        machine, cta, owned = self.machine, warp // self.machine.warps_per_cta, int(self.owned[warp])
        lane = warp * WARP
        wanted = (count - owned) * WARP
        if (count < owned) if grow else (count > owned):
            verb = "inc" if grow else "dec"
            message = f"setmaxnreg.{verb} to {count} registers in a warp that has {owned}"
            machine.report(reports.RESOURCES, message, instr, lane)
        elif wanted > self.free[cta]:
            lanes = np.arange(lane, lane + WARP)
            machine.scheduler.pc[lanes] = pc
            machine.scheduler.block(lanes, Shortage(self, cta, wanted, count))
            self.sleepers[cta].append(warp)
            return
        self.owned[warp] = count
        self.free[cta] -= wanted
        self.done[warp].append(instr)
        self.check_group(instr, warp)
        if wanted < 0:
            for other in self.sleepers[cta]:
                machine.scheduler.wake(np.arange(other * WARP, other * WARP + WARP))
            self.sleepers[cta].clear()

    def group(self, warp: int) -> range:
        per_cta = self.machine.warps_per_cta
        first = warp - warp % per_cta % GROUP
        return range(first, min(first + GROUP, warp - warp % per_cta + per_cta))

    def check_group(self, instr: Instruction, warp: int) -> None:
        """All warps of a warpgroup must execute the same setmaxnreg.

        The same change at another place in the program counts as the same: Triton gives the partitions of one warp each that
        share a warpgroup a setmaxnreg of their own.
        """
        at, group, per_cta = len(self.done[warp]) - 1, self.group(warp), self.machine.warps_per_cta
        if len(group) < GROUP:
            message = f"setmaxnreg in warp {warp % per_cta}, which belongs to no whole warpgroup: the CTA has {per_cta} warps"
            self.machine.report(reports.DIVERGENCE, message, instr, warp * WARP)
        for other in group:
            if len(self.done[other]) > at and self.done[other][at].text != instr.text:
                message = f"warps {other % per_cta} and {warp % per_cta} of a warpgroup execute different setmaxnreg: "
                message += f"PTX line {self.done[other][at].line} and this"
                self.machine.report(reports.DIVERGENCE, message, instr, warp * WARP)

    def ended(self, lanes: np.ndarray) -> None:
        """Threads exit: warps of a warpgroup that have executed more setmaxnreg than one that has ended."""
        scheduler, per_cta = self.machine.scheduler, self.machine.warps_per_cta
        alive = scheduler.alive.reshape(-1, WARP).any(axis=1)
        for first in {self.group(int(w)).start for w in np.unique(lanes // WARP)}:
            group = self.group(first)
            most = max(group, key=lambda w: len(self.done[w]))
            for warp in group:
                if not alive[warp] and len(self.done[warp]) < len(self.done[most]):
                    message = f"warp {warp % per_cta} ended without this setmaxnreg, "
                    message += f"which warp {most % per_cta} of its warpgroup executes"
                    self.machine.report(reports.DIVERGENCE, message, self.done[most][len(self.done[warp])], most * WARP)


@instruction("setmaxnreg")
def setmaxnreg(b: Binding) -> Step:
    grow = b.required("inc", "dec") == "inc"
    b.ignore("sync", "aligned", "u32")
    count = b.constant(0)
    if count % 8 or not 24 <= count <= 256:
        b.fail(f"{count} registers: a multiple of 8 from 24 to 256 is needed")
    machine, instr = b.machine, b.instruction
    at_launch = machine.registers_at_launch

    def run(active: Active, pc: int) -> None:
        whole_warps(b, active)
        if at_launch is None:
            message = "setmaxnreg in a kernel that says neither .maxnreg nor .maxntid or .reqntid (__launch_bounds__): "
            message += "ptxas cannot know the registers at launch, and ignores it"
            machine.report(reports.RESOURCES, message, instr, active.lanes[0])
            return
        pools = machine.family_state("setmaxnreg", lambda: RegisterPools(machine, -(-at_launch // 8) * 8))
        if pools.total > REGISTERS:
            message = f"{at_launch} registers for each of {machine.threads_per_cta} threads are more than an SM has ({REGISTERS})"
            machine.report(reports.RESOURCES, message, instr, active.lanes[0])
        for warp in active.warps:
            pools.change(instr, int(warp), count, grow, pc)

    return Control(run)
