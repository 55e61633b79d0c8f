"""What unscaling moves: each gradient once in and once out, or only in where the factor is 1."""

from __future__ import annotations

import torch
from gpu_evidence import Case

N = 65536


def case(name: str, dtype: torch.dtype, factor: float) -> Case:
    grad = torch.randn(N, generator=torch.Generator().manual_seed(0)).to(dtype)
    passes = 1 if factor == 1 else 2
    args = ([grad], torch.tensor(factor), torch.tensor(0.0))
    return Case("unscale_and_check", name, args, elements=N, compulsory=passes * grad.nbytes)


CASES = [
    case("bf16", torch.bfloat16, 0.5),
    case("fp16", torch.float16, 0.5),
    case("fp32", torch.float32, 0.5),
    case("bf16, factor 1", torch.bfloat16, 1.0),
    case("fp32, factor 1", torch.float32, 1.0),
]
