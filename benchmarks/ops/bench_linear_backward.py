"""linear_backward against its parts as ops of their own, as a program that calls them would."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..shapes import Shape

PEER = "mp.quantize_current, mp.scaled_mm twice"


def case(setup: Setup, shape: Shape) -> Case:
    M, N, K = shape.size
    grad = setup.random(M, N, dtype=torch.bfloat16)
    kept = mp.linear_forward(setup.random(M, K), setup.random(N, K), None, [], [])[1:]
    x_t, dequant_x, weight_t, dequant_w = kept

    def parts() -> object:
        q = mp.quantize_current(grad, torch.float8_e5m2, transpose=True)
        return (
            mp.scaled_mm(q.q, weight_t, q.dequant_scale, dequant_w),
            mp.scaled_mm(q.q_t, x_t, q.dequant_scale, dequant_x),
        )

    return Case(
        name=f"bfloat16 {shape}",
        shape=shape,
        ours=lambda backend: mp.linear_backward(grad, *kept, [], backend=backend),
        peers={PEER: parts},
        flops=0 if shape.family == "tiny" else 4 * M * N * K,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in (*setup.tiny(16, 16, 16), *setup.products()):
        if shape.family in ("tiny", "demo") and shape.direction in ("", "forward"):
            yield case(setup, shape)
