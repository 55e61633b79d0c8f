"""The definition of grad_norm_and_check in plain PyTorch. See the contract in __init__.py.

Squares of float32 values are exact in float64 (2 * 24 <= 53 bits, exponents to +-298), so only the sum rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return None


@torch.no_grad()
def run(norm: Tensor, grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    sum_of_squares = torch.zeros((), dtype=torch.float64, device=norm.device)
    for grad in grads:
        unscaled = (grad.float() * inv_loss_scale).to(grad.dtype)
        all_finite = (grad.isfinite() & unscaled.isfinite()).all()
        found_inf.copy_(torch.where(all_finite, found_inf, 1.0))
        sum_of_squares += grad.double().square().sum()
    if sum(grad.numel() for grad in grads) == 0:
        norm.zero_()  # also where inv_loss_scale is Inf or NaN: there is nothing to multiply
    else:
        norm.copy_(inv_loss_scale.double().abs() * sum_of_squares.sqrt())
