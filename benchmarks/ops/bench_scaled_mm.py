"""scaled_mm against torch's bf16 matmul on operands converted before, and against torch._scaled_mm on the same FP8 operands."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case

# (M, N, K), the least ratio to the bf16 matmul, what it is
SHAPES = (
    (2048, 2048, 2048, 0.80, "square"),
    (1, 4096, 4096, 2.0, "decode, batch 1"),
    (16, 4096, 4096, 1.2, "decode, batch 16"),
    (2048, 512, 512, None, "training, out"),
    (2048, 2048, 512, None, "training, up"),
    (2048, 512, 2048, None, "training, down"),
    (512, 2048, 2048, None, "training, grad_w"),
    (512, 512, 2048, None, "training, grad_w"),
    (16, 16, 16, None, "tiny"),
)


def cases() -> Iterator[Case]:
    one = torch.ones(())
    for M, N, K, bar, what in SHAPES:
        a = torch.randn(M, K).to(torch.float8_e4m3fn)
        b = torch.randn(N, K).to(torch.float8_e4m3fn)
        a_bf16, b_bf16 = a.bfloat16(), b.bfloat16()
        yield Case(
            name=f"scaled_mm {M} x {N} x {K} {what}",
            ours=lambda a=a, b=b: mp.scaled_mm(a, b, one, one),
            peer=lambda a=a_bf16, b=b_bf16: a @ b.t(),
            peer_name="torch bf16 matmul, converted before",
            bar=bar,
            flops=2 * M * N * K,
        )
        if M == N == K == 2048:
            yield Case(
                name=f"scaled_mm {M} x {N} x {K} {what}",
                ours=lambda a=a, b=b: mp.scaled_mm(a, b, one, one),
                peer=lambda a=a, b=b: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16),
                peer_name="torch._scaled_mm",
                bar=4.5,
                flops=2 * M * N * K,
            )
