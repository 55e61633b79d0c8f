"""What a step of loss scaling moves: found_inf, the scale and the tracker that counts on in; those that change, and the other
tracker, out. Each is in a sector of its own.
"""

from __future__ import annotations

import torch
from gpu_evidence import Case


def case(name: str, found_inf: float, tracker: int, written: int) -> Case:
    trackers = [torch.tensor(n, dtype=torch.int32) for n in (tracker, 1)]
    args = (torch.tensor(1024.0), *trackers, torch.tensor(found_inf), 2.0, 0.5, 2000, 1)
    return Case("update_loss_scale", name, args, elements=0, compulsory=32 * (3 + written))


CASES = [case("a clean step", 0.0, 7, 2), case("growth", 0.0, 1999, 3), case("overflow", 1.0, 7, 3)]
