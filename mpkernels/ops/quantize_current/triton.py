"""Two Triton kernels: the maximum, whose last program makes the scales; then the codes, walking x backwards.

The second pass starts where the first one ended, so that of a tensor that fits the L2 cache nothing is read twice from memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...formats import format_of
from ...layout import in_memory_order
from ...triton_device import as_float64, float64_bits, magnitude_bits, scales_of
from ..amax.triton import BLOCK, ITERATIONS
from ..quantize.triton import TARGETS as TARGETS
from ..quantize.triton import write_codes


@triton.jit(do_not_specialize=["largest_code"])
def amax_and_scales(
    x,
    workspace,
    amax,
    quant_scale,
    dequant_scale,
    n,
    largest_code,
    POWER_OF_TWO: tl.constexpr,
    BLOCK: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """workspace: two int32 that are 0: the maximum so far, and how many programs have added theirs.

    largest_code: the bits of fp8_max / 2^margin in float64.
    """
    start = tl.program_id(0).to(tl.int64) * (BLOCK * ITERATIONS)
    largest = tl.zeros((BLOCK,), tl.int32)
    for i in range(ITERATIONS):
        at = start + i * BLOCK
        if at + BLOCK <= n:
            largest = tl.maximum(largest, magnitude_bits(tl.load(x + at + tl.arange(0, BLOCK))))
        elif at < n:
            index = at + tl.arange(0, BLOCK)
            largest = tl.maximum(largest, magnitude_bits(tl.load(x + index, mask=index < n, other=0.0)))
    tl.atomic_max(workspace, tl.max(largest, 0), sem="release")
    if tl.atomic_add(workspace + 1, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        bits = tl.atomic_max(workspace, 0, sem="acquire")
        value = bits.to(tl.float32, bitcast=True)
        one = tl.full((), 1.0, tl.float32)
        new_quant_scale, new_dequant_scale = scales_of(value, as_float64(largest_code), one, POWER_OF_TWO)
        tl.store(amax, value)
        tl.store(quant_scale, new_quant_scale)
        tl.store(dequant_scale, new_dequant_scale)


def why_not(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> str | None:
    return triton_launch.why_not("x", x)


def run(
    q: Tensor,
    q_t: Tensor,
    amax: Tensor,
    quant_scale: Tensor,
    dequant_scale: Tensor,
    x: Tensor,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    transpose: bool,
) -> None:
    if in_memory_order(x) is None:
        x = x.contiguous()
    workspace = torch.zeros(2, dtype=torch.int32, device=x.device)
    grid = max(1, triton_launch.cdiv(x.numel(), BLOCK * ITERATIONS))
    largest_code = float64_bits(format_of(dtype).max * 2.0**-margin)
    args = (in_memory_order(x), workspace, amax, quant_scale, dequant_scale, x.numel(), largest_code)
    constants = {"POWER_OF_TWO": power_of_two, "BLOCK": BLOCK, "ITERATIONS": ITERATIONS}
    triton_launch.launch(amax_and_scales, grid, args, constants, num_warps=8)
    write_codes(q, q_t if transpose else None, None, x, quant_scale, backwards=True)
