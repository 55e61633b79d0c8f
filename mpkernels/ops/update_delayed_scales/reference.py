"""The definition of update_delayed_scales_ in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...formats import FP8_FORMATS
from ..compute_scale import reference as compute_scale

_DTYPES = {f.max: f.dtype for f in FP8_FORMATS}


def why_not(*_args: object) -> str | None:
    return None


def run(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    fp8_maxima: Sequence[float],
    margin: int,
    power_of_two: bool,
    most_recent: bool,
) -> None:
    ended = step_ended != 0
    for history, quant_scale, dequant_scale, fp8_max in zip(
        amax_histories, quant_scales, dequant_scales, fp8_maxima, strict=True
    ):
        newest = torch.where(history[0].isfinite(), history[0], 0.0)
        kept = torch.cat((newest[None], history[1:]))
        amax = newest if most_recent else kept.max()
        new_quant_scale, new_dequant_scale = torch.empty_like(quant_scale), torch.empty_like(dequant_scale)
        compute_scale.run(new_quant_scale, new_dequant_scale, amax, _DTYPES[fp8_max], margin, power_of_two, quant_scale)
        shifted = torch.cat((torch.zeros_like(newest)[None], kept[:-1]))
        quant_scale.copy_(torch.where(ended, new_quant_scale, quant_scale))
        dequant_scale.copy_(torch.where(ended, new_dequant_scale, dequant_scale))
        history.copy_(torch.where(ended, shifted, history))
    step_ended.zero_()
