"""scaled_mm's kernels for Hopper where rows, columns, K and elements reach the last that are allowed: the last CTA alone runs."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import emulated
import pytest
import test_scaled_mm_sm90a as sm90a
import torch
from emulated import Facts, Launch, Params
from ptx_emulator import Buffer, launch
from test_scaled_mm import assert_is_product, random_fp8
from torch import Tensor

pytestmark = pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}")

MAP_NORESERVE = 0x4000  # of mmap(2) on Linux; Python's mmap module names it from 3.13 on
MOST = 2**31 - 1 - 512  # rows, columns and K: kMost in sm90a_plan.cpp
EVERY_TILE_AT_ONCE = Facts(90, 2**31 - 1, 2**50, sm90a.SHARED_LIMIT, 32764)  # each CTA has one
BF16, FP32 = torch.bfloat16, torch.float32
E4M3 = sm90a.E4M3


def untouched(*shape: int, dtype: torch.dtype) -> Tensor:
    """Memory of which only those pages exist that are written to: most of these are larger than any machine's."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)


def filled(part: Tensor, seed: int) -> Tensor:
    return part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(seed)).to(part.dtype))


def recorded(*arguments: object) -> list[Launch]:
    ops = torch.ops.mpkernels_cuda
    ops.start_recording(*vars(EVERY_TILE_AT_ONCE).values())
    try:
        ops.scaled_mm_sm90a(*arguments)
    finally:
        recording = ops.stop_recording()
    return [Launch.parse(line) for line in recording.splitlines()]


def run_last_cta(each: Launch, small: Sequence[Tensor], large: Sequence[tuple[Tensor, Tensor]]) -> None:
    """`large`: (tensor, the part of it that is emulated)."""
    parts = [Buffer(whole, f"large {i}", part=part) for i, (whole, part) in enumerate(large)]
    kernel = emulated.module(each.file, "sm_90a", each.kernel)[each.kernel]
    params = Params(each.params, [*(Buffer(t) for t in small), *parts])
    last = math.prod(each.grid) - 1
    launch(kernel, each.grid, each.block, [params], shared_bytes=each.shared_bytes, ctas=[last])


@pytest.mark.parametrize(
    ("out_dtype", "accumulate"), [(BF16, False), (FP32, True), (BF16, True)], ids=["stored", "added", "elements"]
)
def test_the_last_row(out_dtype, accumulate):
    """Of 2^36 elements."""
    tile, N, K = sm90a.TILES[0], 40, 48
    a, out = untouched(MOST, K, dtype=E4M3), untouched(MOST, N, dtype=out_dtype)
    rows = MOST % tile.rows
    far_a, far_out, b, bias = filled(a[-rows:], 1), filled(out[-rows:], 2), random_fp8(N, K, dtype=E4M3, seed=3), torch.randn(N)
    before = far_out.clone()
    (each,) = recorded(a, b, *sm90a.SCALES, bias, out, accumulate, False, None, tile.index, 1, 1)
    assert each.grid[0] == -(-MOST // tile.rows)
    run_last_cta(each, [b, bias, *sm90a.SCALES], [(a, far_a), (out, far_out)])
    assert_is_product(far_out, far_a, b, *sm90a.SCALES, bias, before if accumulate else None)


@pytest.mark.parametrize("tile", [sm90a.TILES[1], sm90a.TILES[5]], ids=lambda t: t.name)
def test_the_last_column(tile):
    K = 48
    b, out, bias = untouched(MOST, K, dtype=E4M3), untouched(1, MOST, dtype=FP32), untouched(MOST, dtype=FP32)
    columns = MOST % (tile.rows if tile.swapped else tile.columns)
    far_b, far_out, far_bias, a = (
        filled(b[-columns:], 1),
        out[:, -columns:],
        filled(bias[-columns:], 2),
        random_fp8(1, K, dtype=E4M3, seed=3),
    )
    (each,) = recorded(a, b, *sm90a.SCALES, bias, out, False, False, None, tile.index, 1, 1)
    run_last_cta(each, [a, *sm90a.SCALES], [(b, far_b), (out, far_out), (bias, far_bias)])
    assert_is_product(far_out, a, far_b, *sm90a.SCALES, far_bias)


def test_the_last_of_k():
    """The last of so many splits of K that each is short: its partial sums, in a workspace of 2^28 of them."""
    tile, per_split = sm90a.TILES[5], 4
    splits = -(-MOST // (128 * per_split))
    a, b = untouched(1, MOST, dtype=E4M3), untouched(1, MOST, dtype=E4M3)
    rest = MOST - (splits - 1) * 128 * per_split
    far_a, far_b = filled(a[:, -rest:], 1), filled(b[:, -rest:], 2)
    arguments = (a, b, *sm90a.SCALES, None, torch.zeros(1, 1), False, False)
    workspace = untouched(splits * tile.columns * 4 * 4, dtype=torch.uint8)
    each, finish = recorded(*arguments, workspace, tile.index, splits, 1)
    assert finish.kernel == "mpk_scaled_mm_finish"
    assert each.grid[0] == splits
    partial = workspace.view(FP32).view(splits * tile.columns, 4)[-tile.columns :]
    run_last_cta(each, sm90a.SCALES, [(a, far_a), (b, far_b), (workspace, partial)])
    one = torch.ones(())
    assert_is_product(partial[:1, :1], far_a, far_b, one, one)


@pytest.mark.parametrize(("N", "of_a_cta"), [(2**15, 1024), (2**15 + 1, 1021)], ids=["whole", "ragged"])
def test_the_last_element_without_a_product(N, of_a_cta):
    """K = 0: out has 2^32 elements, which get bias added."""
    M = 2**17
    a, b, bias, out = torch.empty(M, 0, dtype=E4M3), torch.empty(N, 0, dtype=E4M3), torch.randn(N), untouched(M, N, dtype=BF16)
    (each,) = recorded(a, b, *sm90a.SCALES, bias, out, True, False, None, -1, -1, -1)
    far_out = filled(out[-1, -of_a_cta:], 1)
    expected = (far_out.float() + bias[-of_a_cta:]).bfloat16()
    run_last_cta(each, [bias, *sm90a.SCALES], [(out, far_out)])
    assert torch.equal(far_out, expected)


def test_more_is_refused():
    scales = sm90a.SCALES
    for M, N, K, why in ((MOST + 1, 8, 16, "M, N or K is beyond"), (2**24, 2**18, 16, "out has 2.31 tiles or more")):
        a, b, out = untouched(M, K, dtype=E4M3), untouched(N, K, dtype=E4M3), untouched(1, N, dtype=BF16).expand(M, N)
        with pytest.raises(RuntimeError, match=why):
            recorded(a, b, *scales, None, out, False, False, None, -1, -1, -1)
