"""Compiled CPU kernels: csrc/ops/scaled_mm/cpu*.cpp. Rows may begin anywhere."""

from __future__ import annotations

from torch import Tensor

from ... import native

TARGETS = ("default", "avx2", "avx512", "avx512_bf16")
_kernel = native.cpu_kernel("scaled_mm")


def why_not(a: Tensor, *_args: object) -> str | None:
    if not a.is_cpu:
        return f"a is on {a.device}, not on the CPU"
    return native.cpu_missing


def run(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    bias: Tensor | None,
    out: Tensor,
    accumulate: bool,
    use_fast_accum: bool,
) -> None:
    if bias is not None:
        bias = bias.contiguous()
    _kernel(a, b, dequant_scale_a, dequant_scale_b, bias, out, accumulate)
