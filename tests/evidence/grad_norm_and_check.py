"""What the norm moves: each gradient once in."""

from __future__ import annotations

import torch
from gpu_evidence import Case

from mpkernels.ops.grad_norm_and_check.cuda import SUMS

N = 65536


def case(name: str, dtype: torch.dtype) -> Case:
    grad = torch.randn(N, generator=torch.Generator().manual_seed(0)).to(dtype)
    args = ([grad], torch.tensor(0.5), torch.tensor(0.0), torch.empty(()), torch.empty(SUMS, dtype=torch.float64))
    return Case("grad_norm_and_check", name, args, elements=N, compulsory=grad.nbytes)


CASES = [case("bf16", torch.bfloat16), case("fp16", torch.float16), case("fp32", torch.float32)]
