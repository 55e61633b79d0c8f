"""compute_scale against the torch ops that make a scale on the device (no zero, Inf or NaN handling beyond a where)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op


def cases(setup: Setup) -> Iterator[Case]:
    for shape in setup.tiny(1):
        amax, one = setup.scalar(3.0), setup.scalar(1.0)

        def chain(amax: torch.Tensor = amax, one: torch.Tensor = one) -> object:
            quant_scale = torch.where((amax > 0) & amax.isfinite(), 448 / amax, one)
            return quant_scale, quant_scale.reciprocal()

        yield Case(
            name="float8_e4m3fn",
            shape=shape,
            ours=lambda backend, amax=amax: mp.compute_scale(amax, torch.float8_e4m3fn, backend=backend),
            peers={"torch where(usable, 448 / amax, 1), reciprocal": chain, BARE: bare_custom_op(amax)},
        )
