"""The definition of adamw_update_ in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...master_weights import clip_factor, exact_power, largest_magnitude, update_gradient


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    return None


@torch.no_grad()
def run(
    masters: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    inv_loss_scale: Tensor | None = None,
    grad_norm: Tensor | None = None,
    max_grad_norm: float = 0.0,
    found_inf: Tensor | None = None,
    param_amaxes: list[Tensor] | None = None,
) -> None:
    if not masters:
        return
    # A flag on the device instead of a branch: no synchronisation, and torch.where keeps every bit.
    skip = torch.zeros_like(steps[0]) if found_inf is None else found_inf
    rate = torch.full_like(steps[0], lr, dtype=torch.float64) if lr_tensor is None else lr_tensor.double()
    clip = clip_factor(grad_norm, max_grad_norm)
    lerp_weight = torch.tensor(1 - beta1, dtype=torch.float32).item()

    for i, (master, exp_avg, exp_avg_sq, step, grad) in enumerate(zip(masters, exp_avgs, exp_avg_sqs, steps, grads, strict=True)):
        t = step + 1
        decay = (1 - rate * weight_decay).float()
        step_size = (rate / (1 - exact_power(beta1, t))).float()
        inv_sqrt_bias2 = (1 / (1 - exact_power(beta2, t)).sqrt()).float()

        g = update_gradient(grad, inv_loss_scale, clip, maximize)
        p = master * decay
        m = exp_avg + lerp_weight * (g - exp_avg) if lerp_weight < 0.5 else g + (lerp_weight - 1) * (g - exp_avg)
        v = exp_avg_sq * beta2 + ((1 - beta2) * g) * g
        # torch.sqrt of float32 on the CPU is not correctly rounded; through float64 it is (53 >= 2 * 24 + 2 bits).
        root = v.double().sqrt().float()
        p = p - (step_size * m) / (root * inv_sqrt_bias2 + eps)

        param = p.to(params[i].dtype) if params else p
        updates = [(master, p), (exp_avg, m), (exp_avg_sq, v), (step, t)]
        updates += [(params[i], param)] if params else []
        updates += [(param_amaxes[i], largest_magnitude(param))] if param_amaxes is not None else []
        for old, new in updates:
            old.copy_(torch.where(skip != 0, old, new))
