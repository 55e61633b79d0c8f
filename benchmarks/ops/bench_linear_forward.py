"""linear_forward against its parts as ops of their own, as a program that calls them would."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..shapes import Shape

PEER = "mp.quantize_current twice, mp.scaled_mm"


def case(setup: Setup, shape: Shape) -> Case:
    M, N, K = shape.size
    x, weight = setup.random(M, K, dtype=torch.bfloat16), setup.random(N, K, dtype=torch.bfloat16)

    def parts() -> object:
        q_x, q_w = (mp.quantize_current(t, transpose=True) for t in (x, weight))
        return q_x.q_t, q_w.q_t, mp.scaled_mm(q_x.q, q_w.q, q_x.dequant_scale, q_w.dequant_scale)

    return Case(
        name=f"bfloat16 {shape}",
        shape=shape,
        ours=lambda backend: mp.linear_forward(x, weight, None, [], [], backend=backend),
        peers={PEER: parts},
        flops=0 if shape.family == "tiny" else 2 * M * N * K,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in (*setup.tiny(16, 16, 16), *setup.products()):
        if shape.family in ("tiny", "demo") and shape.direction in ("", "forward"):
            yield case(setup, shape)
