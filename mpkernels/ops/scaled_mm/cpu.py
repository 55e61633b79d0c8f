"""Compiled CPU kernels: csrc/ops/scaled_mm/cpu*.cpp. They want K contiguous; anything else is copied first (FP8: cheap)."""

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
    _kernel(k_major(a), k_major(b), dequant_scale_a, dequant_scale_b, bias, out, accumulate)


def k_major(x: Tensor) -> Tensor:
    """The matrix itself where K is contiguous in memory, else a copy."""
    return x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()
