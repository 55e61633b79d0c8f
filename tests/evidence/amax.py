"""What amax moves: each element once."""

from __future__ import annotations

import torch
from gpu_evidence import Case


def case(name: str, dtype: torch.dtype) -> Case:
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Case("amax", name, (x, torch.empty(())), elements=x.numel(), compulsory=x.nbytes)


CASES = [case("bf16, 256 x 512", torch.bfloat16), case("fp16, 256 x 512", torch.float16), case("fp32, 256 x 512", torch.float32)]
