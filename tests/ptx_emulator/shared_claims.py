"""Asynchronous writes to shared memory by several operations at once: reductions may overlap, other writes may not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from .registers import WARP
from .syntax import Instruction

if TYPE_CHECKING:
    from .machine import Machine


class SharedClaims:
    """Counts the reductions in flight on each place, so that the sanitizer sees them as one write."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.reductions: Counter[int] = Counter()

    def begin(self, instr: Instruction, offsets: np.ndarray, size: int, lane: int, reduces: bool) -> None:
        if reduces:
            fresh = np.array([self.reductions[int(o)] == 0 for o in offsets], bool)
            self.reductions.update(int(o) for o in offsets)
            offsets = offsets[fresh]
        sanitizer = self.machine.sanitizer
        if len(offsets):
            past = sanitizer.row(lane // WARP)
            sanitizer.begin_async_write(instr, offsets, size, None, past[:1], np.zeros(len(offsets), np.int64), lane, reduces)

    def end(self, instr: Instruction, offsets: np.ndarray, size: int, agent: int, reduces: bool) -> None:
        if reduces:
            self.reductions.subtract(int(o) for o in offsets)
            offsets = offsets[np.array([self.reductions[int(o)] == 0 for o in offsets], bool)]
        if len(offsets):
            self.machine.sanitizer.end_async_write(instr, offsets, size, agent, reduces)


def shared_claims(machine: Machine) -> SharedClaims:
    return machine.family_state("shared claims", lambda: SharedClaims(machine))
