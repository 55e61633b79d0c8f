"""CUDA kernel: csrc/ops/update_loss_scale/cuda.cu."""

from __future__ import annotations

from torch import Tensor

from ... import native

TARGETS = native.CUDA_TARGETS


def why_not(
    loss_scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
) -> str | None:
    return native.cuda_why_not("loss_scale", loss_scale)


def run(
    loss_scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
) -> None:
    native.cuda.update_loss_scale(
        loss_scale,
        growth_tracker,
        hysteresis_tracker,
        found_inf,
        growth_factor,
        backoff_factor,
        growth_interval,
        hysteresis,
    )
