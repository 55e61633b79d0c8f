"""Compiled CPU kernels of quantize, quantize_current and scaled_mm in one call: csrc/ops/linear_forward/torch.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ...layout import CODES_ALIGNMENT, dense_either_way

TARGETS = ("default", "avx2", "avx512", "avx512_bf16")
_kernel = native.cpu_kernel("linear_forward")


def why_not(x: Tensor, *_args: object) -> str | None:
    if not x.is_cpu:
        return f"x is on {x.device}, not on the CPU"
    return native.cpu_missing


def run(
    out: Tensor,
    x_t: Tensor,
    dequant_scale_x: Tensor,
    weight_t: Tensor,
    dequant_scale_weight: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_scaling: list[Tensor],
    weight_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    keep_x: bool,
    keep_weight: bool,
    out_dtype: torch.dtype,
    use_fast_accum: bool,
) -> None:
    if bias is not None:
        bias = bias.contiguous()
    scratch = x.new_empty(x.numel() + CODES_ALIGNMENT + weight.numel(), dtype=dtype)  # the codes of both
    inputs = (dense_either_way(x), dense_either_way(weight), bias, x_scaling, weight_scaling)
    how = (calibrated, record, margin, power_of_two)
    _kernel(*inputs, *how, scratch, out, x_t, dequant_scale_x, weight_t, dequant_scale_weight)
