"""What a step of SGD moves: gradient, master and momentum once in; master, momentum and copy once out."""

from __future__ import annotations

import torch
from gpu_evidence import Case

N = 65536


def case(name: str, momentum: float, amaxes: bool = False) -> Case:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(N, generator=generator) for _ in range(2 if momentum else 1)]
    grads = [torch.randn(N, generator=generator).bfloat16()]
    params = [torch.empty(N, dtype=torch.bfloat16)]
    lists = states[:1], states[1:], [torch.tensor(7.0)], params, grads
    hyper = (1e-2, momentum, 0.0, 0.05, False, False)
    args = (*lists, *hyper, None, torch.tensor(0.5), None, 0.0, torch.tensor(0.0), [torch.empty(())] if amaxes else None)
    args += (torch.empty(8),)
    moved = 2 * sum(t.nbytes for t in states) + grads[0].nbytes + params[0].nbytes
    return Case("sgd_update_", name, args, elements=N, compulsory=moved)


CASES = [
    case("momentum, bf16 gradient and copy", 0.9),
    case("momentum, bf16 gradient and copy, amaxes", 0.9, amaxes=True),
    case("bf16 gradient and copy", 0.0),
]
