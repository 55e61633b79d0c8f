"""CUDA kernels: csrc/ops/adamw_update/cuda.cu."""

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
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    *rest: object,
) -> None:
    if not masters:
        return
    masters, exp_avgs, exp_avg_sqs, params, grads = contiguous_lists(grads, masters, exp_avgs, exp_avg_sqs, params)
    native.cuda.adamw_update_(masters, exp_avgs, exp_avg_sqs, steps, params, grads, *rest, step_workspace(steps))
