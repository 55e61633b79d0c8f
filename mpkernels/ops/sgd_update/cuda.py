"""CUDA kernels: csrc/ops/sgd_update/cuda.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...master_weights import contiguous_lists, step_workspace

TARGETS = native.CUDA_TARGETS


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    return native.cuda_why_not("masters[0]", masters[0]) if masters else None  # nothing to do


@torch.no_grad()
def run(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    *rest: object,
) -> None:
    if not masters:
        return
    masters, momentum_buffers, params, grads = contiguous_lists(grads, masters, momentum_buffers, params)
    native.cuda.sgd_update_(masters, momentum_buffers, steps, params, grads, *rest, step_workspace(steps))
