"""Triton kernels: one that loads through pointers, for every architecture, and a persistent one that loads by TMA (sm_90 on).

Both want rows that begin at multiples of 16 bytes, as the quantiser makes them; others are copied first. Both operands are loaded
as (rows, K) tiles and b is transposed for the dot: loading b as (K, rows) would make Triton permute bytes in the inner loop on
sm_89.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ... import triton_launch, tuning
from ...layout import ROW_BYTES, with_aligned_rows
from ...triton_launch import Target

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")
FORMATS = {torch.float8_e4m3fn: "e4m3", torch.float8_e5m2: "e5m2"}
UNIT_EXPONENT = 127  # 2^0 as UE8M0


class Resources(TypedDict):
    num_warps: int
    num_stages: int


class Config(NamedTuple):
    """How one product is computed.

    dot: "plain"; "decode" makes float16 of the codes first (before sm_89 there is no FP8); "scaled" is the block-scaled
        instruction with scales of 1 (on sm_120 it runs at twice the rate of the plain one).
    promote: add each K block's sum to float32 accumulators outside of the tensor core, which keeps 13 bits: "add", or "apart"
        where Triton must be kept from making one of the two.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    dot: str = "plain"
    descriptors: bool = False
    promote: str = ""
    warp_specialize: bool = False

    @property
    def resources(self) -> Resources:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


# By M: a tile no taller than few rows of `a` need. Shared memory is (block_m + block_n) * block_k * num_stages bytes and must
# stay under 99 KB on sm_86, 89 and 120, under 163 KB on sm_80, 227 KB on sm_90 and 100. On sm_90 and 100 a dot of fewer than 64
# rows would be done in float16. On sm_100 all are warp-specialised: without it, Triton may read sums of which it has not awaited
# the loading (docs/notes/2026-11-25-what-triton-leaves-to-chance.md).
CONFIGS: dict[int | str, tuple[tuple[int, Config], ...]] = {
    80: ((64, Config(64, 128, 64, 4, 4, "decode")), (1 << 62, Config(128, 128, 64, 8, 4, "decode"))),
    86: ((64, Config(64, 64, 64, 4, 3, "decode")), (1 << 62, Config(128, 64, 64, 8, 3, "decode"))),
    89: (
        (16, Config(16, 128, 128, 4, 4, promote="apart")),
        (32, Config(32, 128, 128, 4, 4, promote="apart")),
        (64, Config(64, 128, 128, 8, 3, promote="apart")),
        (1 << 62, Config(128, 128, 128, 8, 3, promote="apart")),
    ),
    90: (
        (64, Config(64, 128, 128, 4, 5, descriptors=True, promote="add")),
        (1 << 62, Config(128, 128, 128, 8, 4, descriptors=True, promote="add")),
    ),
    100: (
        (64, Config(64, 128, 128, 8, 5, descriptors=True, warp_specialize=True)),
        (1 << 62, Config(128, 128, 128, 8, 4, descriptors=True, warp_specialize=True)),
    ),
    120: (
        (64, Config(64, 128, 128, 4, 3, "scaled", descriptors=True)),
        (1 << 62, Config(128, 128, 128, 8, 3, "scaled", descriptors=True)),
    ),
    "hip": ((1 << 62, Config(128, 128, 64, 8, 2)),),
}
FAST_90 = Config(128, 256, 128, 8, 3, descriptors=True)
GROUP_M = 8  # rows of tiles that are walked together, so that the tiles of b they share stay in L2


def family_of(target: Target) -> int | str:
    return "hip" if target.kind == "hip" else max(a for a in CONFIGS if isinstance(a, int) and a <= int(target.arch))


def config_for(target: Target, M: int, N: int, K: int, use_fast_accum: bool) -> Config:
    """What was tuned, or the table's row."""
    if K and (choice := tuning.chosen(tuning_key(target, M, N, K, use_fast_accum))) is not None:
        return Config(*choice)
    family = family_of(target)
    if family == 90 and use_fast_accum and M > 64 and N > 128 and K:
        return FAST_90
    return suited(next(c for largest, c in CONFIGS[family] if largest >= M), K, use_fast_accum)


def suited(config: Config, K: int, use_fast_accum: bool) -> Config:
    """Without promotion where it is not asked for, and without TMA where it cannot describe the operands."""
    return config._replace(promote="" if use_fast_accum else config.promote, descriptors=config.descriptors and K > 0)


def tuning_key(target: Target, M: int, N: int, K: int, use_fast_accum: bool) -> tuning.Key:
    return (target.name, "scaled_mm", *tuning.shape_class(M, N, K), use_fast_accum)


@triton.jit
def decode(codes, FORMAT: tl.constexpr):
    """uint8 codes as float16, for e4m3 divided by 2^8: the bits in their places, without a multiplication. NaN stays NaN."""
    wide = codes.to(tl.uint16)
    if FORMAT == "e5m2":
        bits = wide << 8
    else:
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        bits = tl.where((wide & 0x7F) == 0x7F, 0x7E00, bits)
    return bits.to(tl.float16, bitcast=True)


@triton.jit
def accumulate_product(
    a, b, total, DOT: tl.constexpr, A: tl.constexpr, B: tl.constexpr, PROMOTE: tl.constexpr, EXPONENT: tl.constexpr
):
    """Total + a . b^T for one K block.

    Promotion is written out: on sm_90 tl.dot's own, max_num_imprecise_acc, reads wgmma's results before any wait, which ptxas
    then has to insert (docs/notes/2026-11-25-what-triton-leaves-to-chance.md). On sm_89 the argument has no effect but the one
    wanted: without it, Triton takes the sum so far as the tensor core's accumulator.
    """
    if DOT == "scaled":
        ones_a = tl.full((a.shape[0], a.shape[1] // 32), EXPONENT, tl.uint8)
        ones_b = tl.full((b.shape[0], b.shape[1] // 32), EXPONENT, tl.uint8)
        total = tl.dot_scaled(a, ones_a, A, b.T, ones_b, B, total)
    elif DOT == "decode":
        total = tl.dot(decode(a, A), decode(b, B).T, total)
    elif PROMOTE == "apart":
        total += tl.dot(a, b.T, max_num_imprecise_acc=a.shape[1])
    elif PROMOTE == "add":
        total += tl.dot(a, b.T)
    else:
        total = tl.dot(a, b.T, total)
    return total


@triton.jit
def tile_of(number, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(first row, first column) of a tile: down a group of GROUP_M rows of tiles, then the next column."""
    down, across = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    in_group = GROUP_M * across
    group = number // in_group
    height = min(down - group * GROUP_M, GROUP_M)
    return (group * GROUP_M + number % in_group % height) * BLOCK_M, number % in_group // height * BLOCK_N


@triton.jit
def write_tile(total, out, bias, dequant_scale, row, column, M, N, pitch, ACCUMULATE: tl.constexpr):
    inside = (row < M)[:, None] & (column < N)[None, :]
    total = total * dequant_scale
    if bias is not None:
        total += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
    place = out + row.to(tl.int64)[:, None] * pitch + column[None, :]
    if ACCUMULATE:
        total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scaled_mm_pointers(
    a,
    b,
    dequant_scale_a,
    dequant_scale_b,
    bias,
    out,
    M,
    N,
    K,
    pitch_a,
    pitch_b,
    pitch_out,
    A: tl.constexpr,
    B: tl.constexpr,
    DOT: tl.constexpr,
    PROMOTE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    EXPONENT: tl.constexpr,
    DECODED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """One tile of out a program. DECODED: the power of two that decoding left out.

    A mask along K that is no multiple of 16 would make each byte a load of its own, so only the last block of K has one.
    """
    top, left = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
    row, column, k = top + tl.arange(0, BLOCK_M), left + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    a_block = a + row.to(tl.int64)[:, None] * pitch_a + k[None, :]
    b_block = b + column.to(tl.int64)[:, None] * pitch_b + k[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    whole = K // BLOCK_K * BLOCK_K
    for at in range(0, whole, BLOCK_K):
        x = tl.load(a_block + at, mask=(row < M)[:, None], other=0.0)
        y = tl.load(b_block + at, mask=(column < N)[:, None], other=0.0)
        total = accumulate_product(x, y, total, DOT, A, B, PROMOTE, EXPONENT)
    if whole < K:
        in_k = (whole + k < K)[None, :]
        x = tl.load(a_block + whole, mask=(row < M)[:, None] & in_k, other=0.0)
        y = tl.load(b_block + whole, mask=(column < N)[:, None] & in_k, other=0.0)
        total = accumulate_product(x, y, total, DOT, A, B, PROMOTE, EXPONENT)
    dequant_scale = tl.load(dequant_scale_a) * tl.load(dequant_scale_b)
    write_tile(total * DECODED, out, bias, dequant_scale, row, column, M, N, pitch_out, ACCUMULATE)


@triton.jit
def scaled_mm_descriptors(
    a,
    b,
    dequant_scale_a,
    dequant_scale_b,
    bias,
    out,
    M,
    N,
    K,
    pitch_out,
    A: tl.constexpr,
    B: tl.constexpr,
    DOT: tl.constexpr,
    PROMOTE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    EXPONENT: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """Every num_programs-th tile of out a program. a, b: tensor descriptors, which fill what lies outside with zeros."""
    dequant_scale = tl.load(dequant_scale_a) * tl.load(dequant_scale_b)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    for number in tl.range(tl.program_id(0), tiles, tl.num_programs(0), warp_specialize=WARP_SPECIALIZE):
        top, left = tile_of(number, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for at in range(0, K, BLOCK_K):
            total = accumulate_product(a.load([top, at]), b.load([left, at]), total, DOT, A, B, PROMOTE, EXPONENT)
        row, column = top + tl.arange(0, BLOCK_M), left + tl.arange(0, BLOCK_N)
        write_tile(total, out, bias, dequant_scale, row, column, M, N, pitch_out, ACCUMULATE)


def why_not(a: Tensor, *_rest: object) -> str | None:
    return triton_launch.why_not("a", a)


def configurations(
    a: Tensor, b: Tensor, _scale_a: Tensor, _scale_b: Tensor, _bias: object, out: Tensor, _accumulate: bool, use_fast_accum: bool
) -> tuple[tuning.Key, list[tuning.Choice]]:
    """For mpkernels.tune: the key, and all rows of the table for the GPU, each also with a shorter pipeline."""
    target, (M, N), K = triton_launch.target(a), out.shape, a.shape[1]
    if not (out.numel() and K):
        raise ValueError(f"there is nothing to multiply in a ({M}, {K}) and b ({N}, {K})")
    family = family_of(target)
    rows = [suited(c, K, use_fast_accum) for _, c in CONFIGS[family]] + [FAST_90] * (family == 90 and use_fast_accum)
    shorter = [c._replace(num_stages=c.num_stages - 1) for c in rows]
    return tuning_key(target, M, N, K, use_fast_accum), [*rows, *shorter]


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
    M, N, K = out.shape[0], out.shape[1], a.shape[1]
    if out.numel() == 0:
        return
    a, b, bias = with_aligned_rows(a), with_aligned_rows(b), None if bias is None else bias.contiguous()
    target = triton_launch.target(a)
    config = config_for(target, M, N, K, use_fast_accum)
    tiles = triton_launch.cdiv(M, config.block_m) * triton_launch.cdiv(N, config.block_n)
    constants: dict[str, object] = {"A": FORMATS[a.dtype], "B": FORMATS[b.dtype], "DOT": config.dot, "PROMOTE": config.promote}
    constants |= {"ACCUMULATE": accumulate, "EXPONENT": UNIT_EXPONENT}
    tile = {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "GROUP_M": GROUP_M}
    scalars = (dequant_scale_a, dequant_scale_b, bias, out, M, N, K)
    if config.descriptors:
        operands = (describe(a, config.block_m, config.block_k), describe(b, config.block_n, config.block_k))
        constants["WARP_SPECIALIZE"] = config.warp_specialize
        grid = min(tiles, target.multiprocessors)
        triton_launch.launch(
            scaled_mm_descriptors, grid, (*operands, *scalars, out.stride(0)), constants | tile, **config.resources
        )
        return
    constants["DECODED"] = 1.0
    codes = a, b
    if config.dot == "decode":
        constants["DECODED"] = 2.0 ** (8 * sum(FORMATS[x.dtype] == "e4m3" for x in (a, b)))
        codes = a.view(torch.uint8), b.view(torch.uint8)
    pitches = (pitch_of(a), pitch_of(b), out.stride(0))
    triton_launch.launch(scaled_mm_pointers, tiles, (*codes, *scalars, *pitches), constants | tile, **config.resources)


def pitch_of(x: Tensor) -> int:
    """A multiple of 16, which Triton and TMA must be told. With one row any will do."""
    return x.stride(0) if x.shape[0] > 1 else -(-x.shape[1] // ROW_BYTES) * ROW_BYTES


def describe(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), [pitch_of(x), 1], [rows, columns])
