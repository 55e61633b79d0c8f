"""quantize_current against torch's chain, and against our three ops in its place. About the freed block: bench_quantize.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape


def case(setup: Setup, shape: Shape, transpose: bool) -> Case:
    x, one = setup.random(*shape.size, dtype=torch.bfloat16), setup.scalar(1.0)

    def torch_chain() -> object:
        amax = x.abs().amax().float()
        quant_scale = torch.where((amax > 0) & amax.isfinite(), 448 / amax, one)
        q = (x * quant_scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        return q, q.t().contiguous() if transpose else None, quant_scale.reciprocal()

    def three_ops() -> object:
        scales = mp.compute_scale(mp.amax(x), torch.float8_e4m3fn)
        return mp.quantize(x, scales.quant_scale, transpose=transpose), scales

    peers = {
        f"torch abs().amax(), scale, mul + clamp + cast{' + t().contiguous()' * transpose}": torch_chain,
        "mp.amax, mp.compute_scale, mp.quantize": three_ops,
    }
    return Case(
        name=f"bfloat16{' + transpose' * transpose} {shape}",
        shape=shape,
        ours=lambda backend: mp.quantize_current(x, transpose=transpose, backend=backend),
        peers=peers | {BARE: bare_custom_op(x)} if shape.family == "tiny" else peers,
        bytes_moved=2 * x.nbytes + x.numel() * (1 + transpose),
    )


def cases(setup: Setup) -> Iterator[Case]:
    setup.random(30 << 18).fill_(0)
    for shape in (*setup.tiny(16, 256), *setup.matrices()):
        for transpose in (False, True):
            if transpose or shape.family in ("tiny", "square"):
                yield case(setup, shape, transpose)
