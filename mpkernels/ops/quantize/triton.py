"""Triton kernels: FP8 codes, their transpose and the maximum from one read of x."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...triton_device import CONVERTS_FP8, encode, magnitude_bits

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")
PROGRAM = 16384  # elements a program of the flat kernel
WARPS, TILE_WARPS = 8, 16
TILE_ROWS = 64  # of a tile: transposed rows leave in pieces of 64 bytes, two sectors


def at_a_time(x: Tensor, warps: int) -> int:
    """Elements that are 16 bytes for each thread. With more, Triton gives a thread 32 adjacent bytes and loads half sectors."""
    return 32 * warps * 16 // x.element_size()


@triton.jit
def quantize_flat(
    x,
    quant_scale,
    q,
    amax_bits,
    n,
    E5M2: tl.constexpr,
    BY_INSTRUCTION: tl.constexpr,
    BACKWARDS: tl.constexpr,
    BLOCK: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """Codes of n adjacent elements. BACKWARDS: the last elements first, which the pass before may have left in the cache."""
    program = tl.program_id(0)
    if BACKWARDS:
        program = tl.num_programs(0) - 1 - program
    start = program.to(tl.int64) * (BLOCK * ITERATIONS)
    factor = tl.load(quant_scale)
    largest = tl.zeros((BLOCK,), tl.int32)
    for i in range(ITERATIONS):
        at = start + i * BLOCK
        if at + BLOCK <= n:
            index = at + tl.arange(0, BLOCK)
            value = tl.load(x + index)
            tl.store(q + index, encode(value, factor, E5M2, BY_INSTRUCTION))
            largest = tl.maximum(largest, magnitude_bits(value))
        elif at < n:
            index = at + tl.arange(0, BLOCK)
            value = tl.load(x + index, mask=index < n, other=0.0)
            tl.store(q + index, encode(value, factor, E5M2, BY_INSTRUCTION), mask=index < n)
            largest = tl.maximum(largest, magnitude_bits(value))
    if amax_bits is not None:
        tl.atomic_max(amax_bits, tl.max(largest, 0), sem="relaxed")


@triton.jit
def quantize_tile(
    x,
    quant_scale,
    q,
    q_t,
    amax_bits,
    rows,
    columns,
    pitch,
    pitch_q,
    pitch_q_t,
    E5M2: tl.constexpr,
    BY_INSTRUCTION: tl.constexpr,
    BACKWARDS: tl.constexpr,
    MULTIPLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Codes q (rows, columns) and q_t (columns, rows) of x; either may be None. Rows are pitches apart.

    Rows of q and q_t are filled up to their pitch, a multiple of 16, so that a thread's codes leave together at the edges too.
    columns and pitch of x are counted in units of MULTIPLE: of an argument Triton sees only whether 16 divides it, and would load
    element by element where it does not.
    The input tile is transposed and encoded again, not the codes: moving 16-bit elements through shared memory is as
    cheap as it gets in Triton, bytes go one at a time.
    """
    program = tl.program_id(0)
    if BACKWARDS:
        program = tl.num_programs(0) - 1 - program
    columns *= MULTIPLE
    across = tl.cdiv(columns, COLUMNS)
    top, left = (program // across) * ROWS, (program % across) * COLUMNS
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    factor = tl.load(quant_scale)
    source = x + row.to(tl.int64)[:, None] * MULTIPLE * pitch + column[None, :]
    if (top + ROWS <= rows) & (left + COLUMNS <= columns):
        value = tl.load(source)
        if q is not None:
            tl.store(q + row.to(tl.int64)[:, None] * pitch_q + column[None, :], encode(value, factor, E5M2, BY_INSTRUCTION))
        if q_t is not None:
            tl.store(
                q_t + column.to(tl.int64)[:, None] * pitch_q_t + row[None, :],
                encode(tl.trans(value), factor, E5M2, BY_INSTRUCTION),
            )
        if amax_bits is not None:
            tl.atomic_max(amax_bits, tl.max(tl.max(magnitude_bits(value), 1), 0), sem="relaxed")
    else:
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        value = tl.load(source, mask=inside, other=0.0)
        if q is not None:
            tl.store(
                q + row.to(tl.int64)[:, None] * pitch_q + column[None, :],
                encode(value, factor, E5M2, BY_INSTRUCTION),
                mask=(row < rows)[:, None] & (column < pitch_q)[None, :],
            )
        if q_t is not None:
            tl.store(
                q_t + column.to(tl.int64)[:, None] * pitch_q_t + row[None, :],
                encode(tl.trans(value), factor, E5M2, BY_INSTRUCTION),
                mask=(column < columns)[:, None] & (row < pitch_q_t)[None, :],
            )
        if amax_bits is not None:
            tl.atomic_max(amax_bits, tl.max(tl.max(magnitude_bits(value), 1), 0), sem="relaxed")


def why_not(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> str | None:
    return triton_launch.why_not("x", x)


def run(q: Tensor, q_t: Tensor, amax: Tensor, x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    write_codes(q, q_t if transpose else None, amax.zero_(), x, quant_scale)


def write_codes(
    q: Tensor, q_t: Tensor | None, amax: Tensor | None, x: Tensor, quant_scale: Tensor, *, backwards: bool = False
) -> None:
    """One launch. `amax` must be 0; None does not look for it."""
    if x.numel() == 0:
        return
    codes, codes_t = q.view(torch.uint8), None if q_t is None else q_t.view(torch.uint8)
    bits = None if amax is None else amax.view(torch.int32)
    target = triton_launch.target(x)
    by_instruction = target.kind == "cuda" and int(target.arch) >= CONVERTS_FP8
    constants: dict[str, object] = {
        "E5M2": q.dtype == torch.float8_e5m2,
        "BY_INSTRUCTION": by_instruction,
        "BACKWARDS": backwards,
    }
    if q_t is None and x.is_contiguous() and q.is_contiguous():
        grid = triton_launch.cdiv(x.numel(), PROGRAM)
        args: tuple[object, ...] = (x, quant_scale, codes, bits, x.numel())
        block = at_a_time(x, WARPS)
        sizes = {"BLOCK": block, "ITERATIONS": PROGRAM // block}
        triton_launch.launch(quantize_flat, grid, args, constants | sizes, num_warps=WARPS)
        return
    if x.dim() != 2 or 1 not in x.stride():
        x = x.contiguous()
        if q_t is None:
            return write_codes(q, None, amax, x, quant_scale, backwards=backwards)
    if x.stride(1) != 1:  # adjacent along columns: its transpose has rows, and the outputs change places
        x, codes, codes_t = x.t(), codes_t, codes  # type: ignore[assignment]  # either may be None
    rows, columns = x.shape
    multiple = math.gcd(16, columns, x.stride(0))
    pitches = (0 if c is None else c.stride(0) for c in (codes, codes_t))
    sizes = {"MULTIPLE": multiple, "ROWS": TILE_ROWS, "COLUMNS": at_a_time(x, TILE_WARPS) // TILE_ROWS}
    grid = triton_launch.cdiv(rows, sizes["ROWS"]) * triton_launch.cdiv(columns, sizes["COLUMNS"])
    args = (x, quant_scale, codes, codes_t, bits, rows, columns // multiple, x.stride(0) // multiple, *pitches)
    triton_launch.launch(quantize_tile, grid, args, constants | sizes, num_warps=TILE_WARPS)
