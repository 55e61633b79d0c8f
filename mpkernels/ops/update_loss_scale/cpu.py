"""Compiled CPU kernel: csrc/ops/update_loss_scale/cpu.cpp."""

from __future__ import annotations

from torch import Tensor

from ... import native

TARGETS = ("default",)
_kernel = native.cpu_kernel("update_loss_scale")


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
    if not loss_scale.is_cpu:
        return f"loss_scale is on {loss_scale.device}, not on the CPU"
    return native.cpu_missing


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
    _kernel(
        loss_scale,
        growth_tracker,
        hysteresis_tracker,
        found_inf,
        growth_factor,
        backoff_factor,
        growth_interval,
        hysteresis,
    )
