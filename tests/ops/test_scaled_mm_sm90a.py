"""scaled_mm's kernels for Hopper, each instance by name: values, bytes and conflicts in the emulator, registers and SASS.

The contract tests (test_scaled_mm.py) run what the plan chooses; here the plan is told what to choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import assembled
import emulated
import pytest
import torch
from emulated import EmulatedDevice, Facts
from ptx_emulator import EVERY_POLICY
from torch import Tensor

from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES, format_of
from mpkernels.testing import assert_matches, bits_of, reduction, tensor_core_of, to_float64

pytestmark = pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}")

E4M3, E5M2 = FP8_DTYPES
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
FILE = "csrc/ops/scaled_mm/sm90a.cu"
SHARED_LIMIT = 227 << 10
PAIRS = ((E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2))


@dataclass(frozen=True)
class Tile:
    """kTiles of csrc/ops/scaled_mm/sm90a.h; `registers`: the highest that any of its kernels may use."""

    index: int
    name: str
    rows: int
    columns: int
    slices: int
    registers: int
    blocks_per_sm: int = 1
    swapped: bool = False

    @property
    def fast(self) -> bool:
        return "fast" in self.name


TILES = (
    Tile(0, "256x128", 256, 128, 2, 232),
    Tile(1, "128x128", 128, 128, 1, 200),
    Tile(2, "64x128", 64, 128, 1, 168, blocks_per_sm=2),
    Tile(3, "128x256_fast", 128, 256, 1, 176),
    Tile(4, "128x64_swapped", 128, 64, 1, 144, swapped=True),
    Tile(5, "128x16_swapped", 128, 16, 1, 56, swapped=True),
)
each_tile = pytest.mark.parametrize("tile", TILES, ids=lambda t: t.name)


@dataclass(frozen=True)
class Problem:
    """Random operands and what out holds before, the same for the same fields."""

    M: int
    N: int
    K: int
    dtypes: tuple[torch.dtype, torch.dtype] = (E4M3, E4M3)
    out_dtype: torch.dtype = FP32
    bias_dtype: torch.dtype | None = None
    accumulate: bool = False
    out_pitch: int = 0  # beyond N
    out_offset: int = 0  # in elements, from an aligned address

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """a, b in rows that begin at multiples of 16 bytes, with NaN after them; bias; out within a larger matrix."""
        generator = torch.Generator().manual_seed(self.M + 7 * self.N + 11 * self.K)
        a, b = (
            rows_of_16(torch.randn(rows, self.K, generator=generator).to(dtype))
            for rows, dtype in zip((self.M, self.N), self.dtypes, strict=True)
        )
        bias = None if self.bias_dtype is None else torch.randn(self.N, generator=generator).to(self.bias_dtype)
        pitch = self.N + self.out_pitch + self.out_offset
        around = torch.randn(self.M + 2, pitch, generator=generator).to(self.out_dtype)
        return a, b, bias, around

    def out_in(self, around: Tensor) -> Tensor:
        return around[1 : self.M + 1, self.out_offset : self.out_offset + self.N]


def rows_of_16(x: Tensor) -> Tensor:
    rows, K = x.shape
    memory = torch.full((rows, -(-K // 16) * 16), float("nan")).to(x.dtype)
    memory[:, :K] = x
    return memory[:, :K]


SCALES = torch.tensor(0.5), torch.tensor(1.7)


def multiply(device: EmulatedDevice, problem: Problem, tile: int = -1, splits: int = -1, cluster: int = -1, fast: bool = False):
    """(out, exact result, magnitude for reduction(K)); checks that nothing around out has changed."""
    a, b, bias, around = problem.operands()
    out, before = problem.out_in(around), around.clone()
    added = to_float64(out) if problem.accumulate else torch.zeros(())
    arguments = (a, b, *SCALES, bias, out, problem.accumulate, fast)
    size = device.scaled_mm_sm90a_workspace(*arguments, tile, splits, cluster)
    workspace = torch.full((size,), 0xFF, dtype=torch.uint8) if size else None
    device.scaled_mm_sm90a(*arguments, workspace, tile, splits, cluster)
    factor = to_float64(SCALES[0] * SCALES[1])
    shift = torch.zeros(()) if bias is None else to_float64(bias)
    expected = to_float64(a) @ to_float64(b).t() * factor + shift + added
    magnitude = to_float64(a).abs() @ to_float64(b).abs().t() * factor + shift.abs() + added.abs()
    result = out.clone()
    out.copy_(problem.out_in(before))
    assert_matches(around, before)
    return result, expected, magnitude


def assert_product(result: Tensor, expected: Tensor, magnitude: Tensor, problem: Problem) -> None:
    assert_matches(result, expected, reduction(problem.K), magnitude=magnitude)


@pytest.fixture
def few_sms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two SMs, so that the persistent blocks take several tiles each."""
    monkeypatch.setitem(emulated.TARGETS, "sm_90a", Facts(90, 2, 50 << 20, SHARED_LIMIT, 32764))


# Every way out of the kernel: by TMA in each type, added by TMA, and by elements (a pitch or an address that TMA does not take;
# a sum in 16 bits), with every bias type.
EPILOGUES = (
    Problem(150, 200, 272, out_dtype=BF16, bias_dtype=FP32),
    Problem(50, 72, 130, out_dtype=FP16, bias_dtype=BF16, out_pitch=8),
    Problem(50, 72, 272, out_dtype=FP32),
    Problem(50, 200, 130, out_dtype=FP32, bias_dtype=FP16, accumulate=True),
    Problem(50, 73, 272, out_dtype=BF16, bias_dtype=BF16),
    Problem(150, 200, 130, out_dtype=FP16, accumulate=True, out_pitch=8),
    Problem(50, 72, 130, out_dtype=FP32, bias_dtype=FP32, out_offset=1),
    Problem(50, 75, 130, out_dtype=FP32, accumulate=True),
)


@each_tile
@pytest.mark.parametrize("which", range(len(EPILOGUES)))
def test_every_epilogue_and_format(tile, which, few_sms):
    """Two of the four policies each: the same bytes."""
    problem = replace(EPILOGUES[which], dtypes=PAIRS[(which + tile.index) % 4])
    if tile.swapped:
        problem = replace(problem, M=problem.M // 2)
    results = []
    for policy in (EVERY_POLICY[which % 2], EVERY_POLICY[2 + (which + tile.index) % 2]):
        device = EmulatedDevice("sm_90a", policy)
        result, *rest = multiply(device, problem, tile.index, splits=1, cluster=1)
        assert tile.name in device.launches[0].kernel
        assert_product(result, *rest, problem)
        results.append(bits_of(result))
    assert torch.equal(*results)


@each_tile
@pytest.mark.parametrize(("splits", "cluster"), [(2, 1), (1, 2), (3, 2)])
def test_split_and_clustered(tile, splits, cluster, few_sms):
    """Ordered sums: the same bytes under every policy. The last block of K is ragged, tiles reach outside."""
    problem = Problem(40 if tile.swapped else 90, 150, 400, (E5M2, E4M3), BF16, FP32, accumulate=True)
    results = []
    for policy in (EVERY_POLICY[(splits + tile.index) % 4], EVERY_POLICY[(splits + tile.index + 1) % 4]):
        device = EmulatedDevice("sm_90a", policy)
        result, *rest = multiply(device, problem, tile.index, splits, cluster)
        assert_product(result, *rest, problem)
        assert [each.cluster[0] for each in device.launches] == [cluster, 1][: len(device.launches)]
        assert len(device.launches) == (2 if splits > 1 else 1)
        results.append(bits_of(result))
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 33, 16), (33, 1, 127), (5, 7, 129), (64, 64, 128), (65, 129, 1)], ids=str)
def test_small_and_ragged(shape):
    for fast in (False, True):
        problem = Problem(*shape, out_dtype=FP16)
        device = EmulatedDevice("sm_90a")
        assert_product(*multiply(device, problem, fast=fast), problem)


def test_no_k():
    for accumulate in (False, True):
        problem = Problem(9, 21, 0, out_dtype=BF16, bias_dtype=FP32, accumulate=accumulate)
        device = EmulatedDevice("sm_90a")
        assert_product(*multiply(device, problem), problem)
        assert [each.kernel for each in device.launches] == ["mpk_scaled_mm_finish"]


def hopper_errors(tile: Tile, K: int) -> Tensor:
    """In the published model of Hopper's tensor cores."""
    problem = Problem(64, 64, K)
    device = EmulatedDevice("sm_90a", numerics="hopper")
    result, expected, magnitude = multiply(device, problem, tile.index, splits=1, cluster=1)
    assert_matches(result, expected, reduction(K, tensor_core_of(90), fast=tile.fast), magnitude=magnitude)
    return (to_float64(result) - expected).abs()


def test_promotion_keeps_what_the_tensor_core_would_drop():
    promoted, fast = hopper_errors(TILES[1], 4096), hopper_errors(TILES[3], 4096)
    assert 2 * promoted.max() < fast.max()
    assert 2 * promoted.square().mean().sqrt() < fast.square().mean().sqrt()


@each_tile
def test_bytes_and_conflicts(tile, few_sms):
    """Each tile is loaded once, each result leaves once, and shared memory is never waited for twice."""
    rows, columns, K = 2 * tile.rows, tile.columns, 384
    M, N = (columns, rows) if tile.swapped else (rows, columns)
    for out_dtype in HIGH_PRECISION_DTYPES:
        device = EmulatedDevice("sm_90a")
        multiply(device, Problem(M, N, K, out_dtype=out_dtype, bias_dtype=BF16), tile.index, splits=1, cluster=1)
        (result,) = device.results
        counters = result.counters
        assert counters["bulk_load_bytes"] == 2 * (tile.rows + tile.columns) * K
        assert 32 * counters["bulk_load_sectors"] == counters["bulk_load_bytes"]
        assert counters["bulk_store_bytes"] == M * N * format_of(out_dtype).bits // 8
        assert 32 * counters["bulk_store_sectors"] == counters["bulk_store_bytes"]
        assert counters["global_store_bytes"] == 0
        assert counters["wgmma"] == 2 * (tile.rows // 64) * (K // 32)
        assert counters["shared_store_conflicts"] == counters["shared_load_conflicts"] == 0


def test_multicast_loads_the_shared_operand_once(few_sms):
    tile = TILES[0]
    problem = Problem(tile.rows, 2 * tile.columns, 256, out_dtype=BF16)
    device = EmulatedDevice("sm_90a")
    multiply(device, problem, tile.index, splits=1, cluster=2)
    assert 32 * device.results[0].counters["bulk_load_sectors"] == (problem.M + problem.N) * problem.K


@cache
def kernels() -> dict[str, assembled.Assembled]:
    if (why := assembled.why_not()) is not None:
        pytest.skip(why)
    return assembled.assemble(FILE, "sm_90a")


def of_tile(tile: Tile) -> Iterator[assembled.Assembled]:
    for name, kernel in kernels().items():
        if name.startswith(f"mpk_scaled_mm_sm90a_{tile.name}_e"):
            yield kernel


# Beside the matrix instructions and the additions: descriptors, barriers, the ring's position.
OTHERS_PER_MATRIX_INSTRUCTION = 14


@each_tile
def test_sass(tile):
    found = list(of_tile(tile))
    assert len(found) == len(PAIRS)
    for kernel in found:
        assert kernel.spilled == kernel.stack == kernel.static_shared == 0
        assert assembled.highest_register(kernel.sass) <= tile.registers
        assert kernel.count("LDL|STL") == 0
        assert kernel.count("UTMALDG") == 3
        assert kernel.count("UTMASTG") == kernel.count("UTMAREDG") == 1
        body = assembled.main_loop(kernel)
        blocks, rest = divmod(body["QGMMA"], 4 * tile.slices)
        assert blocks in (1, 2, 4), "of K, unrolled"
        assert rest == 0
        assert body["FADD"] == (0 if tile.fast else blocks * tile.slices * tile.columns // 2)
        for bad in ("LDS", "STS", "LDG", "STG", "PRMT", "LDL", "STL", "MEMBAR", "FMUL"):
            assert body[bad] == 0, bad
        assert body["total"] <= body["FADD"] + body["QGMMA"] * OTHERS_PER_MATRIX_INSTRUCTION


def test_no_spills_and_no_serialised_products():
    """Where ptxas has to wait after each wgmma, or cannot honour setmaxnreg, it warns (C7508 to C7514)."""
    assert all(kernel.spilled == 0 and kernel.warnings == () for kernel in kernels().values())
    for tile in TILES:
        for kernel in of_tile(tile):
            assert kernel.count(r"WARPGROUP\.DEPBAR") > 0
            body = assembled.main_loop(kernel)
            assert body["WARPGROUP"] <= 2 * body["QGMMA"] // 4, "one arrive and one wait for each block of K and slice"


def plan_of(M: int, N: int, K: int, out_dtype: torch.dtype = BF16, accumulate: bool = False, fast: bool = False) -> str:
    """In words. The memory is not touched, so it costs nothing."""
    a, b = (torch.empty(rows, K, dtype=E4M3) for rows in (M, N))
    out = torch.empty(M, N, dtype=out_dtype)
    return str(EmulatedDevice("sm_90a").scaled_mm_plan(a, b, *SCALES, None, out, accumulate, fast))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8192, 8192, 8192), "256x128, .* clusters of 2, K in 1, grid 132"),
        ((2048, 2048, 2048), "256x128, "),
        ((1, 4096, 4096), "128x16_swapped, "),
        ((40, 8192, 8192), "128x64_swapped, |128x16_swapped, |64x128, "),
        ((768, 768, 16384), "256x128, .* K in [4-9], "),
        ((64, 64, 100_000), "K in [1-9][0-9], "),
        ((8, 8, 0), "K is 0"),
    ],
    ids=str,
)
def test_plan(shape, words):
    assert re.match(f".*?({words})", plan_of(*shape))


def test_fast_accumulation_takes_the_wider_tile():
    assert plan_of(8192, 8192, 8192, fast=True).startswith("128x256_fast")
    assert "fast" not in plan_of(8192, 8192, 8192)


def test_workspace_stays_within_l2():
    device = EmulatedDevice("sm_90a")
    for M, N, K in ((768, 3072, 16384), (64, 64, 100_000), (512, 512, 65536), (1, 16384, 16384)):
        a, b, out = torch.empty(M, K, dtype=E4M3), torch.empty(N, K, dtype=E4M3), torch.empty(M, N, dtype=BF16)
        size = device.scaled_mm_sm90a_workspace(a, b, *SCALES, None, out, False, False, -1, -1, -1)
        assert size <= 2 * device.facts.l2_bytes, "rows are filled up to whole tiles"


def test_a_workspace_that_is_too_small_is_refused():
    a, b, out = torch.zeros(64, 16384).to(E4M3), torch.zeros(64, 16384).to(E4M3), torch.empty(64, 64, dtype=BF16)
    device = EmulatedDevice("sm_90a")
    arguments = (a, b, *SCALES, None, out, False, False)
    size = device.scaled_mm_workspace(*arguments)
    assert size > 0
    for workspace in (None, torch.empty(size - 1, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match="the workspace is too small"):
            device.scaled_mm(*arguments, workspace)
