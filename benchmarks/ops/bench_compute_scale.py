"""compute_scale against the torch ops that make a scale on the device (no zero, Inf or NaN handling beyond a where)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def cases() -> Iterator[Case]:
    amax, one = torch.tensor(3.0), torch.tensor(1.0)

    def chain() -> object:
        quant_scale = torch.where((amax > 0) & amax.isfinite(), 448 / amax, one)
        return quant_scale, quant_scale.reciprocal()

    yield Case(
        name="compute_scale float8_e4m3fn",
        ours=lambda: mp.compute_scale(amax, torch.float8_e4m3fn),
        peer=chain,
        peer_name="torch where(usable, 448 / amax, 1), reciprocal",
        bytes_moved=12,
    )
