"""scaled_mm against torch's bf16 matmul on operands converted before, and against torch's products of the same FP8 operands."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape

BF16, SCALED_MM, FUNCTIONAL = "torch bf16 matmul, converted before", "torch._scaled_mm", "torch.nn.functional.scaled_mm"
BARS = {
    (2048, 2048, 2048): {BF16: 0.8, SCALED_MM: 4.5},
    (1, 4096, 4096): {BF16: 2.0},
    (16, 4096, 4096): {BF16: 1.2},
}


def case(setup: Setup, shape: Shape) -> Case:
    M, N, K = shape.size
    a, b = (setup.random(rows, K).to(torch.float8_e4m3fn) for rows in (M, N))
    a_bf16, b_bf16, one = a.bfloat16(), b.bfloat16(), setup.scalar(1.0)
    tensorwise = functional.ScalingType.TensorWise
    fp8_peers = {
        SCALED_MM: lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16),
        FUNCTIONAL: lambda: functional.scaled_mm(a, b.t(), one, tensorwise, one, tensorwise),
    }
    if setup.device.type == "cpu" and shape.size != (2048, 2048, 2048):
        fp8_peers = {}  # torch's are several times slower than its bf16 product there, at every size
    bare = {BARE: bare_custom_op(a)} if shape.family == "tiny" else {}
    return Case(
        name=f"{shape}",
        shape=shape,
        ours=lambda backend: mp.scaled_mm(a, b, one, one, backend=backend),
        peers={BF16: lambda: a_bf16 @ b_bf16.t(), **fp8_peers, **bare},
        bars=BARS.get(shape.size, {}),
        bytes_moved=M * K + N * K + 2 * M * N,
        flops=2 * M * N * K,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in (*setup.tiny(16, 16, 16), *setup.products()):
        yield case(setup, shape)
