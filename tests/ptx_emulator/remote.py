"""Accesses to the shared memory of other CTAs of a cluster: the memory is gone when its CTA has ended.

For each CTA, the last step at which each agent (a warp, or an mbarrier for asynchronous operations) has touched its memory from
outside is kept. A CTA must not end before it comes after all of them, whatever the schedule was, and what comes later is
reported at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import reports
from .registers import Active
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine

OWN_CTA = {"shared", "shared::cta"}


class RemoteAccesses:
    """What each resident CTA's memory has to outlive."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.last: dict[tuple[int, int], tuple[int, Instruction]] = {}  # (CTA, agent) -> (step, instruction)
        machine.scheduler.exit_hooks.append(self.ended)

    def touch(self, instr: Instruction, offsets: np.ndarray, active: Active) -> None:
        """The active threads access these places of the shared arena."""
        machine = self.machine
        target = offsets // machine.memory.shared.stride
        remote = target != machine.cta_of[active.index]
        if not remote.any():
            return
        first = int(np.argmax(remote))
        if OWN_CTA & set(instr.modifiers):
            place = machine.memory.place(machine.memory.shared, int(offsets[first]), 1)
            message = "an access to the CTA's own shared memory (.shared or .shared::cta) with an address in CTA "
            message += f"{int(target[first]) % machine.cluster_size} of the cluster ({place}): .shared::cluster is needed"
            machine.report(reports.OUT_OF_BOUNDS, message, instr, active.lanes[first])
        agents = machine.sanitizer.agent_of_warp[active.warp_of]
        for cta, agent in set(zip(target[remote].tolist(), agents[remote].tolist(), strict=True)):
            self.record(instr, cta, agent, int(active.lanes[first]))

    def record(self, instr: Instruction, cta: int, agent: int, lane: int | None) -> None:
        machine = self.machine
        if not self.alive(cta):
            message = f"accesses the shared memory of CTA {cta % machine.cluster_size} of the cluster, which has ended: the CTA "
            message += "must wait (barrier.cluster) until nobody uses its memory"
            machine.report(reports.FREED, message, instr, lane)
        self.last[cta, agent] = (machine.step, instr)

    def alive(self, cta: int) -> bool:
        per = self.machine.lanes_per_cta
        return bool(self.machine.scheduler.alive[cta * per : (cta + 1) * per].any())

    def ended(self, lanes: np.ndarray) -> None:
        """Lanes have ended. Of CTAs that have now ended: everyone who touched their memory must have come before."""
        machine, sanitizer = self.machine, self.machine.sanitizer
        if not sanitizer.enabled:
            return
        for cta in np.unique(machine.cta_of[lanes]).tolist():
            if self.alive(cta):
                continue
            warps = slice(cta * machine.warps_per_cta, (cta + 1) * machine.warps_per_cta)
            known = sanitizer.clock[warps].max(axis=0)
            for (target, agent), (step, instr) in self.last.items():
                if target == cta and step > known[agent]:
                    message = f"the shared memory of CTA {cta % machine.cluster_size} of the cluster is accessed by "
                    message += f"{sanitizer.agent_name(agent)}, but nothing makes the CTA wait for that before it ends "
                    message += "(barrier.cluster, or an mbarrier)"
                    machine.report(reports.FREED, message, instr, int(lanes[0]))


def remote_accesses(machine: Machine) -> RemoteAccesses:
    return machine.family_state("remote accesses", lambda: RemoteAccesses(machine))


def touch_by_agent(machine: Machine, instr: Instruction, offsets: np.ndarray, agent: int) -> None:
    """An asynchronous operation that completes on an mbarrier of these places' CTA writes them."""
    if machine.cluster_size > 1:
        for cta in np.unique(offsets // machine.memory.shared.stride).tolist():
            remote_accesses(machine).record(instr, cta, agent, None)
