"""The definition of unscale_and_check_ in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return None


@torch.no_grad()
def run(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    for grad in grads:
        unscaled = (grad.float() * inv_loss_scale).to(grad.dtype)
        all_finite = (grad.isfinite() & unscaled.isfinite()).all()
        found_inf.copy_(torch.where(all_finite, found_inf, 1.0))
        grad.copy_(unscaled)
