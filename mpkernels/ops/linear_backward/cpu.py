"""Compiled CPU kernels of quantize, quantize_current and scaled_mm in one call: csrc/ops/linear_backward/torch.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import CODES_ALIGNMENT, dense_either_way

TARGETS = ("default", "avx2", "avx512", "avx512_bf16")
_kernel = native.cpu_kernel("linear_backward")


def why_not(grad_out: Tensor, *_args: object) -> str | None:
    if not grad_out.is_cpu:
        return f"grad_out is on {grad_out.device}, not on the CPU"
    return native.cpu_missing


def run(
    grad_x: Tensor,
    grad_weight: Tensor,
    grad_out: Tensor,
    x_t: Tensor | None,
    dequant_scale_x: Tensor | None,
    weight_t: Tensor | None,
    dequant_scale_weight: Tensor | None,
    grad_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    grad_x_dtype: torch.dtype,
    grad_weight_dtype: torch.dtype,
    fast_dgrad: bool,
    fast_wgrad: bool,
) -> None:
    codes = grad_out.numel()
    scratch = grad_out.new_empty(codes + CODES_ALIGNMENT + codes, dtype=dtype)  # the codes, and those of the transpose
    kept = (x_t, dequant_scale_x, weight_t, dequant_scale_weight)
    how = (calibrated, record, margin, power_of_two)
    _kernel(dense_either_way(grad_out), *kept, grad_scaling, *how, scratch, grad_x, grad_weight)
