"""The definition of scaled_mm in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

from torch import Tensor


def why_not(*_args: object) -> str | None:
    return None


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
    # float64 holds every product and, unless K is beyond 2^20, every sum to well below an FP32 ulp: the accumulator is
    # the exact sum rounded to FP32, the best that the contract allows. The epilogue is FP32, as in every backend.
    accumulator = (a.float().double() @ b.float().double().t()).float()
    result = accumulator * (dequant_scale_a * dequant_scale_b)
    if bias is not None:
        result = result + bias.float()
    if accumulate:
        result = result + out.float()
    out.copy_(result)
