"""What quantize moves: each element of x once, a byte of q, a byte of q_t."""

from __future__ import annotations

import torch
from gpu_evidence import Case


def case(name: str, dtype: torch.dtype, fp8: torch.dtype, transpose: bool, *, columns: bool = False) -> Case:
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.t() if columns else x
    q = torch.empty(x.shape, dtype=fp8)
    q_t = torch.empty(x.shape[::-1] if transpose else (0,), dtype=fp8)
    args = (x, torch.tensor(3.0), transpose, q, q_t, torch.empty(()))
    return Case("quantize", name, args, elements=x.numel(), compulsory=x.nbytes + q.nbytes + q_t.nbytes)


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CASES = [
    case("bf16 -> E4M3, q and q_t", torch.bfloat16, E4M3, True),
    case("bf16 -> E4M3, q", torch.bfloat16, E4M3, False),
    case("bf16 -> E4M3, q of a transposed x", torch.bfloat16, E4M3, False, columns=True),
    case("bf16 -> E5M2, q and q_t", torch.bfloat16, E5M2, True),
    case("fp16 -> E4M3, q and q_t", torch.float16, E4M3, True),
    case("fp32 -> E4M3, q and q_t", torch.float32, E4M3, True),
]
