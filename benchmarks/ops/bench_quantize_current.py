"""quantize_current against amax, compute_scale and quantize as three ops. See bench_quantize.py about the freed block."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def cases() -> Iterator[Case]:
    torch.empty(30 << 20, dtype=torch.uint8).fill_(0)
    for shape in ((16, 256), (256, 1024), (1024, 1024), (4096, 4096)):
        for transpose in (False, True):
            x = torch.randn(shape).bfloat16()

            def three_ops(x: torch.Tensor = x, transpose: bool = transpose) -> object:
                scales = mp.compute_scale(mp.amax(x), torch.float8_e4m3fn)
                return mp.quantize(x, scales.quant_scale, transpose=transpose), scales

            yield Case(
                name=f"quantize_current bfloat16{' + transpose' * transpose} {shape[0]} x {shape[1]}",
                ours=lambda x=x, transpose=transpose: mp.quantize_current(x, transpose=transpose),
                peer=three_ops,
                peer_name="mp.amax, mp.compute_scale, mp.quantize",
                bytes_moved=2 * x.nbytes + x.numel() * (1 + transpose),
            )
