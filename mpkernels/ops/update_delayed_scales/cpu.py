"""Compiled CPU kernel: csrc/ops/update_delayed_scales/cpu.cpp."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ... import native

TARGETS = ("default",)
_kernel = native.cpu_kernel("update_delayed_scales")


def why_not(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    *_options: object,
) -> str | None:
    if not step_ended.is_cpu:
        return f"step_ended is on {step_ended.device}, not on the CPU"
    return native.cpu_missing


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
    _kernel(amax_histories, quant_scales, dequant_scales, step_ended, fp8_maxima, margin, power_of_two, most_recent)
