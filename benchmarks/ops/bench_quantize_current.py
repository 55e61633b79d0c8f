"""quantize_current against amax, compute_scale and quantize as three ops. See bench_quantize.py about the freed block."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape


def case(setup: Setup, shape: Shape, transpose: bool) -> Case:
    x = setup.random(*shape.size, dtype=torch.bfloat16)

    def three_ops() -> object:
        scales = mp.compute_scale(mp.amax(x), torch.float8_e4m3fn)
        return mp.quantize(x, scales.quant_scale, transpose=transpose), scales

    peers = {"mp.amax, mp.compute_scale, mp.quantize": three_ops}
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
