"""The definition of sgd_update_ in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...master_weights import clip_factor, largest_magnitude, update_gradient


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    return None


@torch.no_grad()
def run(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool = False,
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
    rate = torch.full_like(steps[0], lr) if lr_tensor is None else lr_tensor
    clip = clip_factor(grad_norm, max_grad_norm)

    for i, (master, step, grad) in enumerate(zip(masters, steps, grads, strict=True)):
        g = update_gradient(grad, inv_loss_scale, clip, maximize)
        if weight_decay != 0:
            g = g + weight_decay * master
        updates = []
        direction = g
        if momentum != 0:
            buffer = momentum_buffers[i]
            b = torch.where(step == 0, g, buffer * momentum + (1 - dampening) * g)
            direction = g + momentum * b if nesterov else b
            updates = [(buffer, b)]
        p = master - rate * direction

        param = p.to(params[i].dtype) if params else p
        updates += [(master, p), (step, step + 1)]
        updates += [(params[i], param)] if params else []
        updates += [(param_amaxes[i], largest_magnitude(param))] if param_amaxes is not None else []
        for old, new in updates:
            old.copy_(torch.where(skip != 0, old, new))
