"""update_delayed_scales_ for the three tensors of a layer against the same in torch ops."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def cases() -> Iterator[Case]:
    histories = [torch.rand(1024) for _ in range(3)]
    quant, dequant = [torch.ones(()) for _ in range(3)], [torch.ones(()) for _ in range(3)]
    ended = torch.ones(())
    maxima = [448.0, 448.0, 57344.0]

    def ours() -> None:
        ended.fill_(1.0)
        mp.update_delayed_scales_(histories, quant, dequant, ended, maxima)

    def peer() -> None:
        ended.fill_(1.0)
        for history, quant_scale, dequant_scale, fp8_max in zip(histories, quant, dequant, maxima, strict=True):
            amax = history.max()
            usable = (amax > 0) & amax.isfinite() & (ended != 0)
            quant_scale.copy_(torch.where(usable, fp8_max / amax, quant_scale))
            dequant_scale.copy_(quant_scale.reciprocal())
            rolled = history.roll(1)
            rolled[0] = 0
            history.copy_(rolled)
        ended.zero_()

    yield Case(
        name="update_delayed_scales_ 3 histories of 1024",
        ours=ours,
        peer=peer,
        peer_name="torch max, where, roll, copy",
        bytes_moved=3 * 1024 * 8,
    )
