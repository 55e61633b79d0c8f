"""CUDA kernels: csrc/ops/grad_norm_and_check/cuda.cu."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import native
from ...layout import dense_lists

TARGETS = native.CUDA_TARGETS
SUMS = 4096  # kSums of grad_norm_and_check_cuda.h


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    return native.cuda_why_not("inv_loss_scale", inv_loss_scale)


@torch.no_grad()
def run(norm: Tensor, grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    dense, _ = dense_lists(grads)
    sums = torch.empty(SUMS, dtype=torch.float64, device=norm.device)
    native.cuda.grad_norm_and_check(dense, inv_loss_scale, found_inf, norm, sums)
