"""What a scale costs: amax and the previous scale in, both scales out, each in a sector of its own."""

from __future__ import annotations

import torch
from gpu_evidence import Case


def case(name: str, previous: torch.Tensor | None) -> Case:
    args = (torch.tensor(3.0), torch.float8_e4m3fn, 0, False, previous, torch.empty(()), torch.empty(()))
    return Case("compute_scale", name, args, elements=0, compulsory=32 * (3 + (previous is not None)))


CASES = [case("without a previous scale", None), case("with one", torch.tensor(2.0))]
