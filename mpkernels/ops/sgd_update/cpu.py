"""Compiled CPU kernel: csrc/ops/sgd_update/cpu.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...master_weights import contiguous_lists

TARGETS = ("default", "avx2", "avx512")
_kernel = native.cpu_kernel("sgd_update_")


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    if masters and not masters[0].is_cpu:
        return f"masters are on {masters[0].device}, not on the CPU"
    return native.cpu_missing


@torch.no_grad()
def run(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    *rest: object,
) -> None:
    masters, momentum_buffers, params, grads = contiguous_lists(grads, masters, momentum_buffers, params)
    _kernel(masters, momentum_buffers, steps, params, grads, *rest)
