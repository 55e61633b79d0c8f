"""What quantize_current moves in its two launches: each element of x twice, a byte of q, a byte of q_t."""

from __future__ import annotations

import torch
from gpu_evidence import Case


def case(name: str, dtype: torch.dtype, transpose: bool) -> Case:
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
    q_t = torch.empty(x.shape[::-1] if transpose else (0,), dtype=torch.float8_e4m3fn)
    scalars = [torch.empty(()) for _ in range(3)]
    args = (x, 0, False, transpose, torch.empty(1024), q, q_t, *scalars)
    return Case("quantize_current", name, args, elements=x.numel(), compulsory=2 * x.nbytes + q.nbytes + q_t.nbytes)


CASES = [case("bf16 -> E4M3, q and q_t", torch.bfloat16, True)]
