"""CUDA kernel: csrc/ops/unscale_and_check/cuda.cu."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import native
from ...layout import dense_lists

TARGETS = native.CUDA_TARGETS


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return native.cuda_why_not("inv_loss_scale", inv_loss_scale)


@torch.no_grad()
def run(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    dense, copies = dense_lists(grads)
    native.cuda.unscale_and_check(dense, inv_loss_scale, found_inf)
    for grad, data in copies:
        grad.copy_(data)
