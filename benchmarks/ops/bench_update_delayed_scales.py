"""update_delayed_scales_ for the three tensors of a layer against the same in torch ops."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape

MAXIMA = [448.0, 448.0, 57344.0]


def case(setup: Setup, shape: Shape) -> Case:
    histories = [setup.random(*shape.size).abs() for _ in MAXIMA]
    quant, dequant = ([setup.scalar(1.0) for _ in MAXIMA] for _ in range(2))
    ended = setup.scalar(1.0)

    def ours(backend: str | None) -> None:
        ended.fill_(1.0)
        mp.update_delayed_scales_(histories, quant, dequant, ended, MAXIMA, backend=backend)

    def peer() -> None:
        ended.fill_(1.0)
        for history, quant_scale, dequant_scale, fp8_max in zip(histories, quant, dequant, MAXIMA, strict=True):
            amax = history.max()
            usable = (amax > 0) & amax.isfinite() & (ended != 0)
            quant_scale.copy_(torch.where(usable, fp8_max / amax, quant_scale))
            dequant_scale.copy_(quant_scale.reciprocal())
            rolled = history.roll(1)
            rolled[0] = 0
            history.copy_(rolled)
        ended.zero_()

    return Case(
        name=f"3 histories of {shape.size[0]}",
        shape=shape,
        ours=ours,
        peers={"torch max, where, roll, copy": peer, BARE: bare_custom_op(histories)},
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in setup.tiny(1024):
        yield case(setup, shape)
