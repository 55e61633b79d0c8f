"""tcgen05.fence, for Policy(tcgen05_fences="explicit"): what a warp's tcgen05 instructions come after.

The ISA wants a tcgen05.fence::before_thread_sync between a thread's tcgen05 and the synchronisation that passes it on, and an
::after_thread_sync between synchronisation and the tcgen05 that relies on it; tcgen05.commit implies the first. So loads and
stores have a second agent each, whose clock only ::before_thread_sync raises, and each warp keeps a copy of its clock that only
::after_thread_sync renews.
"""

from __future__ import annotations

import numpy as np

from .machine import Machine


class Tcgen05Fences:
    """`twins`: the second agents of loads and stores; other agents are their own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.twins: dict[int, int] = {}
        self.seen = np.zeros((machine.num_warps, 0), np.int32)

    def twin(self, agent: int) -> int:
        """Makes the second agent of loads or stores."""
        if agent not in self.twins:
            self.twins[agent] = self.machine.sanitizer.agent(f"{self.machine.sanitizer.agent_name(agent)}, fenced")
        return self.twins[agent]

    def _widen(self) -> np.ndarray:
        clock = self.machine.sanitizer.clock
        self.seen = np.pad(self.seen, ((0, 0), (0, clock.shape[1] - self.seen.shape[1])))
        return clock

    def learn(self, warp: int, agent: int) -> None:
        """The warp has waited for its own loads or stores."""
        twin = self.twin(agent)
        self._widen()
        self.seen[warp, twin] = self.machine.step

    def before(self, warp: int, agents: list[int]) -> None:
        twins = [self.twin(agent) for agent in agents]
        clock = self._widen()
        clock[warp, twins] = self.seen[warp, twins]

    def after(self, warp: int) -> None:
        clock = self._widen()
        self.seen[warp] = np.maximum(self.seen[warp], clock[warp])

    def known(self, warp: int, agents: np.ndarray) -> np.ndarray:
        """Until which step the warp's tcgen05 come after each of these agents."""
        width = self._widen().shape[1]
        names = np.arange(width)
        for agent, twin in self.twins.items():
            names[agent] = twin
        return self.seen[warp, names[agents]]
