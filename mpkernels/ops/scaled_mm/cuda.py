"""CUDA kernels: csrc/ops/scaled_mm/sm*.cu, one file for each generation of tensor cores.

They want rows that begin at multiples of 16 bytes, which is how memory reaches shared memory 16 bytes at a time. The
quantiser's do, whatever K is. An operand that differs is copied first (1 byte an element, read and written): a contiguous one
whose K is no multiple of 16, a slice that begins or ends elsewhere, an expanded row.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ... import native
from ...layout import ROW_BYTES, has_aligned_rows, with_aligned_rows

TARGETS = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120", "sm_121")


@functools.cache
def _file(architecture: int) -> str:
    return str(native.cuda.scaled_mm_file(architecture))


def why_not(a: Tensor, *_args: object) -> str | None:
    missing = native.cuda_why_not("a", a)
    if missing is not None:
        return missing
    architecture = native.cuda_architecture(a)
    return None if _file(architecture) else f"there are no hand-written kernels for sm_{architecture}"


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
    a, b = with_aligned_rows(a), with_aligned_rows(b)
    arguments = (a, b, dequant_scale_a, dequant_scale_b, bias, out, accumulate, use_fast_accum)
    size = _workspace_bytes(*arguments)
    workspace = a.new_empty(size, dtype=torch.uint8) if size else None
    native.cuda.scaled_mm(*arguments, workspace)


MOST_SIZES = 4096
_sizes: dict[tuple[object, ...], int] = {}


def _workspace_bytes(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    bias: Tensor | None,
    out: Tensor,
    accumulate: bool,
    use_fast_accum: bool,
) -> int:
    """For partial sums, where K is split. It depends on what is in the key only, and asking costs a call."""
    key = (*a.shape, b.shape[0], out.dtype, accumulate, use_fast_accum, a.device, native.cuda_architecture(a))
    size = _sizes.get(key)
    if size is None:
        if len(_sizes) >= MOST_SIZES:
            _sizes.clear()
        arguments = (a, b, dequant_scale_a, dequant_scale_b, bias, out, accumulate, use_fast_accum)
        size = _sizes[key] = int(native.cuda.scaled_mm_workspace(*arguments))
    return size


def plan(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    bias: Tensor | None,
    out: Tensor,
    accumulate: bool,
    use_fast_accum: bool,
) -> str:
    """What `run` would launch, in words."""
    copied = [name for name, x in (("a", a), ("b", b)) if not has_aligned_rows(x)]
    bias = None if bias is None else bias.contiguous()
    arguments = (
        with_aligned_rows(a),
        with_aligned_rows(b),
        dequant_scale_a,
        dequant_scale_b,
        bias,
        out,
        accumulate,
        use_fast_accum,
    )
    text = str(native.cuda.scaled_mm_plan(*arguments))
    return text + "".join(f"; {name} is copied first: its rows do not begin at multiples of {ROW_BYTES} bytes" for name in copied)
