"""What the end of a step moves: each history once in and once out, and its scales."""

from __future__ import annotations

import torch
from gpu_evidence import Case

LENGTH = 1024


def case(name: str, count: int) -> Case:
    histories = [torch.rand(LENGTH, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    scales = [[torch.ones(()) for _ in range(count)] for _ in range(2)]
    args = (histories, *scales, torch.tensor(1.0), [448.0] * count, 0, False, False)
    moved = 2 * sum(history.nbytes for history in histories) + 32 * (3 * count + 2)
    # A warp's 32 adjacent words, read one place on, lie in 5 sectors and not in 4.
    return Case("update_delayed_scales", name, args, elements=0, compulsory=moved, largest_ratio=1.13)


CASES = [case("a layer's three histories of 1024", 3)]
