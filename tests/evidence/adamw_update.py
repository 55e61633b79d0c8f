"""What a step of AdamW moves: gradient, master and moments once in; master, moments and copy once out."""

from __future__ import annotations

import torch
from gpu_evidence import Case

N = 65536


def case(name: str, grad: torch.dtype, copy: torch.dtype | None, amaxes: bool = False) -> Case:
    generator = torch.Generator().manual_seed(0)
    master, average, square = (torch.randn(N, generator=generator) for _ in range(3))
    params = [] if copy is None else [torch.empty(N, dtype=copy)]
    grads = [torch.randn(N, generator=generator).to(grad)]
    lists = [master], [average], [square.square()], [torch.tensor(7.0)], params, grads
    hyper = (1e-2, 0.9, 0.999, 1e-8, 0.05, False)
    args = (*lists, *hyper, None, torch.tensor(0.5), None, 0.0, torch.tensor(0.0), [torch.empty(())] if amaxes else None)
    args += (torch.empty(8),)
    moved = 6 * master.nbytes + grads[0].nbytes + sum(t.nbytes for t in params)
    return Case("adamw_update_", name, args, elements=N, compulsory=moved)


CASES = [
    case("bf16 gradient and copy", torch.bfloat16, torch.bfloat16),
    case("bf16 gradient and copy, amaxes", torch.bfloat16, torch.bfloat16, amaxes=True),
    case("fp16 gradient and copy", torch.float16, torch.float16),
    case("fp32 gradient, bf16 copy", torch.float32, torch.bfloat16),
    case("fp32 gradient, no copy", torch.float32, None),
    case("fp32 gradient, no copy, amaxes", torch.float32, None, amaxes=True),
]
