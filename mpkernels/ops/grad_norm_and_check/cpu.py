"""Compiled CPU kernel: csrc/ops/grad_norm_and_check/cpu.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import native
from ...layout import dense_lists

TARGETS = ("default", "avx2", "avx512")
_kernel = native.cpu_kernel("grad_norm_and_check")


def why_not(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> str | None:
    if not inv_loss_scale.is_cpu:
        return f"the gradients are on {inv_loss_scale.device}, not on the CPU"
    return native.cpu_missing


@torch.no_grad()
def run(norm: Tensor, grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    dense, _ = dense_lists(grads)
    _kernel(dense, inv_loss_scale, found_inf, norm)
