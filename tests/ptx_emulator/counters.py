"""Exact counts of what a kernel moves and executes, for each instruction.

Global memory: bytes asked for, requests (one for each warp), 32-byte sectors. Shared memory: bytes, requests,
wavefronts (passes over the 32 banks of 4 bytes: a request of 4 bytes a lane needs one, 8 bytes one for each half warp,
16 bytes one for each quarter warp), and conflicts (wavefronts beyond that minimum).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from .registers import Active
from .syntax import Instruction

SECTOR = 32
BANKS = 32
LARGEST_CACHED = 1024  # lanes: patterns of larger accesses do not repeat often enough to be worth a key


class Counters:
    """`totals[name]` and `at(instruction index)[name]`; `instructions[i]` counts warps that executed instruction i."""

    def __init__(self, program: Sequence[Instruction], enabled: bool = True) -> None:
        self.program = program
        self.enabled = enabled
        self.instructions = [0] * len(program)
        self.counts: dict[str, Counter[int]] = defaultdict(Counter)
        self._wavefronts: dict[tuple[int, int, bytes], tuple[int, int]] = {}

    def add(self, name: str, amount: int, instruction: Instruction) -> None:
        self.counts[name][instruction.index] += amount

    # What a user reads.

    def __getitem__(self, name: str) -> int:
        return sum(self.counts[name].values()) if name in self.counts else 0

    @property
    def totals(self) -> dict[str, int]:
        return {name: sum(c.values()) for name, c in sorted(self.counts.items())}

    def at(self, index: int) -> dict[str, int]:
        return {name: c[index] for name, c in sorted(self.counts.items()) if index in c}

    @property
    def warp_instructions(self) -> int:
        return sum(self.instructions)

    def mix(self) -> Counter[str]:
        """Warp instructions by full opcode."""
        found: Counter[str] = Counter()
        for instruction, n in zip(self.program, self.instructions, strict=True):
            if n:
                found[instruction.name] += n
        return found

    def by_source_line(self) -> dict[tuple[int, int] | None, Counter[str]]:
        """(file, line) -> counts, `warp_instructions` among them."""
        found: dict[tuple[int, int] | None, Counter[str]] = defaultdict(Counter)
        for instruction, n in zip(self.program, self.instructions, strict=True):
            if n:
                found[instruction.source]["warp_instructions"] += n
        for name, counts in self.counts.items():
            for index, n in counts.items():
                found[self.program[index].source][name] += n
        return dict(found)

    # What the memory system calls.

    def global_access(self, what: str, offsets: np.ndarray, size: int, active: Active, instruction: Instruction) -> None:
        """`what`: load or store; one offset for each active lane."""
        if not self.enabled:
            return
        sectors = active.by_warp(offsets, -SECTOR) >> 5
        if not (sectors[:, 1:] >= sectors[:, :-1]).all():
            sectors = np.sort(sectors, axis=1)
        distinct = np.count_nonzero(sectors[:, 1:] != sectors[:, :-1]) + len(sectors)
        if active.rows is not None:  # the fill value counted as a sector of its own
            distinct -= int(np.count_nonzero(sectors.min(axis=1) < 0))
        self.add(f"global_{what}_bytes", size * len(offsets), instruction)
        self.add(f"global_{what}_requests", len(active.warps), instruction)
        self.add(f"global_{what}_sectors", int(distinct), instruction)

    def shared_access(self, what: str, offsets: np.ndarray, size: int, active: Active, instruction: Instruction) -> None:
        if not self.enabled:
            return
        key = None
        if len(offsets) <= LARGEST_CACHED:
            start = int(offsets[0])
            key = (size, (start >> 2) & (BANKS - 1), (offsets - start).tobytes() + active.lanes.tobytes())
        found = self._wavefronts.get(key) if key is not None else None
        if found is None:
            found = count_wavefronts(active.by_warp(offsets, -1), size)
            if key is not None:
                self._wavefronts[key] = found
        wavefronts, least = found
        self.add(f"shared_{what}_bytes", size * len(offsets), instruction)
        self.add(f"shared_{what}_requests", len(active.warps), instruction)
        self.add(f"shared_{what}_wavefronts", wavefronts, instruction)
        self.add(f"shared_{what}_conflicts", wavefronts - least, instruction)


def count_wavefronts(offsets: np.ndarray, size: int) -> tuple[int, int]:
    """(wavefronts, fewest possible) of (warps, 32) byte offsets, negative where a lane is not active."""
    lanes = 32 if size <= 4 else 32 * 4 // size
    groups = offsets.reshape(-1, lanes)
    words = (groups[:, :, None] >> 2) + np.arange(max(size // 4, 1))
    words[groups < 0] = -1
    words = np.sort(words.reshape(len(groups), -1), axis=1)
    fresh = words >= 0
    fresh[:, 1:] &= words[:, 1:] != words[:, :-1]
    banks = np.broadcast_to(np.arange(len(groups))[:, None] * BANKS, words.shape) + (words & (BANKS - 1))
    load = np.bincount(banks[fresh], minlength=len(groups) * BANKS).reshape(-1, BANKS)
    return int(load.max(axis=1).sum()), int(np.count_nonzero(load.any(axis=1)))
