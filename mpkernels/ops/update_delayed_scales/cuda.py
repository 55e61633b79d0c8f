"""CUDA kernel: csrc/ops/update_delayed_scales/cuda.cu."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ... import native

TARGETS = native.CUDA_TARGETS


def why_not(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    *_options: object,
) -> str | None:
    return native.cuda_why_not("step_ended", step_ended)


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
    native.cuda.update_delayed_scales(
        amax_histories, quant_scales, dequant_scales, step_ended, fp8_maxima, margin, power_of_two, most_recent
    )
