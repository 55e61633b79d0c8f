"""The definition of update_loss_scale_ in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return None


@torch.no_grad()
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
    # torch.where in place of `if`: no value comes to the host
    bad = found_inf != 0
    patience = torch.where(bad, hysteresis_tracker.clamp(min=1) - 1, hysteresis)
    clean_steps = torch.where(bad, 0, growth_tracker + 1)
    shrink, grow = bad & (patience == 0), ~bad & (clean_steps == growth_interval)
    shrunk, grown = (loss_scale.double() * backoff_factor).float(), (loss_scale.double() * growth_factor).float()
    loss_scale.copy_(torch.where(shrink, shrunk, torch.where(grow & grown.isfinite(), grown, loss_scale)))
    growth_tracker.copy_(torch.where(grow, 0, clean_steps))
    hysteresis_tracker.copy_(patience)
