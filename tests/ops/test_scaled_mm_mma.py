"""scaled_mm's kernels made of mma.sync (sm80.cu, sm89.cu, sm120a.cu): every instance, what each moves and executes, the plan."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import assembled
import emulated
import pytest
import torch
from ptx_emulator import EVERY_POLICY, Buffer, launch
from test_scaled_mm import assert_is_product, exact_value, random_fp8, scales

import mpkernels as mp
from mpkernels import native
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from mpkernels.testing import assert_matches, reduction_bound, tensor_core_of, to_float64

E4M3, E5M2 = FP8_DTYPES
FILES = {"sm_80": "sm80", "sm_89": "sm89", "sm_120a": "sm120a"}
NAMES = {E4M3: "e4m3", E5M2: "e5m2"}
# Tile -> (M, N) that one tile of a GPU of one SM is best for, with edges.
TILES = {"128x128": (120, 125), "64x64": (60, 61), "16x64": (13, 61)}
DEPTH = 128
# Registers a thread and kernel, the most of the four pairs of formats. 65536 hold one block of 256 threads with 255, two of 128
# threads with 255.
REGISTERS = {
    ("sm_80", "128x128", "fast"): 176,
    ("sm_80", "64x64", "fast"): 128,
    ("sm_80", "16x64", "fast"): 72,
    ("sm_89", "128x128", "promote"): 216,
    ("sm_89", "64x64", "promote"): 128,
    ("sm_89", "16x64", "promote"): 64,
    ("sm_89", "128x128", "fast"): 168,
    ("sm_89", "64x64", "fast"): 128,
    ("sm_89", "16x64", "fast"): 64,
    ("sm_120a", "128x128", "promote"): 232,
    ("sm_120a", "64x64", "promote"): 128,
    ("sm_120a", "16x64", "promote"): 64,
    ("sm_120a", "128x128", "fast"): 168,
    ("sm_120a", "64x64", "fast"): 128,
    ("sm_120a", "16x64", "fast"): 64,
}
INSTANCES = [
    (target, tile, accum, a, b) for target, tile, accum in REGISTERS for a, b in itertools.product(FP8_DTYPES, FP8_DTYPES)
]
every_target = pytest.mark.parametrize("target", FILES)
Gpu = Callable[..., emulated.EmulatedDevice]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """gpu(target, ...) stands for a GPU from then on."""
    if (why := emulated.why_not()) is not None:
        pytest.skip(f"emulated: {why}")

    def stand_in(target: str, **facts) -> emulated.EmulatedDevice:
        device = emulated.EmulatedDevice(target, **facts)
        monkeypatch.setattr(native, "cuda", device)
        monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
        monkeypatch.setattr(native, "cuda_architecture", lambda tensor: device.facts.architecture)
        return device

    return stand_in


def kernel_name(target: str, tile: str, accum: str, a: torch.dtype, b: torch.dtype) -> str:
    return f"mpk_scaled_mm_{FILES[target]}_{tile}_{accum}_{NAMES[a]}_{NAMES[b]}"


@pytest.mark.parametrize("case", range(len(INSTANCES)), ids=lambda i: kernel_name(*INSTANCES[i]).removeprefix("mpk_scaled_mm_"))
def test_every_instance(gpu, case):
    """Each with another epilogue: out dtypes, bias dtypes and none, accumulation and none, aligned and misaligned rows of out."""
    target, tile, accum, dtype_a, dtype_b = INSTANCES[case]
    device = gpu(target, sm_count=1, policy=EVERY_POLICY[case % len(EVERY_POLICY)])
    M, N = TILES[tile]
    K = 176  # a whole step and an end
    a, b = random_fp8(M, K, dtype=dtype_a, seed=1), random_fp8(N, K, dtype=dtype_b, seed=2)
    out_dtype = HIGH_PRECISION_DTYPES[case % 3]
    bias_dtype = (None, *HIGH_PRECISION_DTYPES)[case // 3 % 4]
    bias = None if bias_dtype is None else torch.randn(N).to(bias_dtype)
    pitch = N if case % 2 else -(-N // 8) * 8
    before = torch.randn(M, pitch).to(out_dtype)
    out, accumulate = before.clone()[:, :N], case // 2 % 2 == 0
    mp.scaled_mm(a, b, *scales(), bias=bias, out=out, accumulate=accumulate, use_fast_accum=accum == "fast", backend="cuda")
    assert [each.kernel for each in device.launches] == [kernel_name(*INSTANCES[case])]
    assert_is_product(out, a, b, *scales(), bias, before[:, :N] if accumulate else None)


@every_target
@pytest.mark.parametrize("tile", TILES)
def test_same_bytes_under_every_policy(gpu, target, tile):
    M, N = TILES[tile]
    a, b = random_fp8(M, 400, dtype=E4M3, seed=3), random_fp8(N, 400, dtype=E5M2, seed=4)
    results = []
    for policy in EVERY_POLICY:
        gpu(target, sm_count=1, policy=policy)
        results.append(mp.scaled_mm(a, b, *scales(), out_dtype=torch.float32, backend="cuda"))
    for result in results[1:]:
        assert_matches(result, results[0])


@pytest.mark.parametrize(("target", "model"), [("sm_89", "ada"), ("sm_90a", "hopper")])
def test_tensor_cores_keep_their_bound_and_not_that_of_fp32(gpu, target, model):
    """What the tests of the contract grant on a GPU, in the published models of the hardware."""
    beyond = []
    for K, fast in itertools.product((3, 33, 70, 300, 1100), (False, True)):
        device = gpu(target, numerics=model)
        core = tensor_core_of(device.facts.architecture)
        for dtype in FP8_DTYPES:
            a, b = random_fp8(40, K, dtype=dtype, seed=K), random_fp8(24, K, dtype=E4M3, seed=K + 1)
            result = mp.scaled_mm(a, b, *scales(), out_dtype=torch.float32, use_fast_accum=fast, backend="cuda")
            assert_is_product(result, a, b, *scales(), core=core, fast=fast)
            expected, magnitude = exact_value(a, b, *scales())
            beyond.append(((to_float64(result) - expected).abs() > reduction_bound(expected, magnitude, K, torch.float32)).any())
    assert sum(beyond) > len(beyond) / 2


def test_promotion_keeps_what_the_tensor_cores_of_sm_89_lose(gpu):
    M, N, K = 16, 64, 4096
    a, b = random_fp8(M, K, dtype=E4M3, seed=5), random_fp8(N, K, dtype=E4M3, seed=6)
    one = torch.ones(())
    expected, _ = exact_value(a, b, one, one)
    error = {}
    for fast in (True, False):
        device = gpu("sm_89", numerics="ada")
        result = mp.scaled_mm(a, b, one, one, out_dtype=torch.float32, use_fast_accum=fast, backend="cuda")
        assert ("fast" in device.launches[0].kernel) == fast
        assert_is_product(result, a, b, one, one, core=tensor_core_of(89), fast=fast)
        error[fast] = (to_float64(result) - expected).square().mean().sqrt()
    assert error[True] > 2 * error[False]


def product_counters(gpu: Gpu, target: str, tile: str, K: int, out_dtype: torch.dtype) -> dict[str, int]:
    M, N = map(int, tile.split("x"))
    device = gpu(target, sm_count=1)
    a, b = random_fp8(M, K, dtype=E4M3, seed=7), random_fp8(N, K, dtype=E4M3, seed=8)
    out = torch.zeros(M, N, dtype=out_dtype)
    mp.scaled_mm(a, b, *scales(), bias=torch.randn(N), out=out, accumulate=True, backend="cuda")
    assert f"_{tile}_" in device.launches[0].kernel
    return device.results[0].counters.totals


@every_target
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moves_the_compulsory_bytes_without_conflicts(gpu, target, tile, out_dtype):
    M, N = map(int, tile.split("x"))
    threads = 256 if tile == "128x128" else 128
    K = 2 * DEPTH
    totals = product_counters(gpu, target, tile, K, out_dtype)
    bytes_out = M * N * (4 if out_dtype is torch.float32 else 2)
    operands = (M + N) * K
    lanes = N // (4 if out_dtype is torch.float32 else 8)
    bias = threads * (N // lanes) * 4  # each thread its columns, from L1 after the first
    assert totals["global_load_bytes"] == operands + bytes_out + bias + threads * 2 * 4
    assert totals["global_store_bytes"] == bytes_out
    assert totals["global_store_sectors"] == bytes_out // 32
    assert totals["shared_load_conflicts"] == totals["shared_store_conflicts"] == 0


@every_target
def test_assembled_as_meant(target):
    if (why := assembled.why_not()) is not None:
        pytest.skip(why)
    kernels = assembled.assemble(f"csrc/ops/scaled_mm/{FILES[target]}.cu", target)
    instances = {kernel_name(*i): i for i in INSTANCES if i[0] == target}
    assert kernels.keys() == instances.keys()
    per_k32 = {"128x128": (4, 4), "64x64": (2, 4), "16x64": (1, 2)}  # 16 x 8 tiles of a warp
    for name, (_, tile, accum, a, b) in instances.items():
        kernel, (rows, columns) = kernels[name], per_k32[tile]
        assert (kernel.spilled, kernel.stack) == (0, 0), name
        assert kernel.registers <= REGISTERS[target, tile, accum], name
        pair = f"{NAMES[a]}.{NAMES[b]}".upper()
        multiply, k = {
            "sm_80": (r"HMMA\.16816\.F32$", 16),
            "sm_89": (rf"QMMA\.16832\.F32\.{pair}$", 32),
            "sm_120a": (rf"QMMA\.SF\.16832\.F32\.{pair}\.E8$", 32),
        }[target]
        loop = kernel.loop(multiply)

        def count(pattern: str, loop: list[str] = loop) -> int:
            return sum(bool(re.match(pattern, code)) for code in loop)

        assert count(multiply) == count(".MMA|HMMA") == rows * columns * DEPTH // k, name
        assert count("LDSM.16.M88.4") == count("LDSM") == (rows + columns // 2) * 4, name
        assert count(r"LDGSTS\.E\.BYPASS.*\.128$") == count("LDGSTS") == {"128x128": 8, "64x64": 8, "16x64": 5}[tile], name
        assert count("FADD") == (4 * rows * columns if accum == "promote" else 0), name
        assert count("BAR") == 1, name
        assert count(r"LDL|STL|LDG\.|STG|LDS$|STS|PRMT|I2F|F2F") == 0, name


# Where the fields of MmaParams (mma_plan.h) are.
FIELDS = {"a": 0, "b": 8, "bias": 48, "out": 56, "m": 72, "n": 80, "tiles_m": 96, "tiles_n": 100}


class FarParams(emulated.Params):
    """The parameters of a launch of one tile, as if it were the last of (1 + down) x (1 + across) tiles."""

    def __init__(self, each: emulated.Launch, buffers: list[Buffer], rows: int, columns: int, down: int, across: int) -> None:
        super().__init__(each.params, buffers)
        a, b, out = (buffer.array for buffer in buffers[:3])
        self.moves = {
            "a": (8, -rows * down * a.stride(0)),
            "b": (8, -columns * across * b.stride(0)),
            "bias": (8, -columns * across * 4),
            "out": (8, -(rows * down * out.stride(0) + columns * across) * 4),
            "m": (8, rows * down),
            "n": (8, columns * across),
            "tiles_m": (4, down),
            "tiles_n": (4, across),
        }

    def pack(self, address_of: Callable[[Any], int]) -> bytes:
        content = bytearray(super().pack(address_of))
        for name, (size, amount) in self.moves.items():
            at = FIELDS[name]
            value = int.from_bytes(content[at : at + size], "little") + amount
            content[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
        return bytes(content)


@every_target
@pytest.mark.parametrize(("down", "across"), [(2**26, 2), (2, 2**26)], ids=["rows", "columns"])
def test_more_elements_than_32_bits_count(gpu, target, down, across):
    """The tile's rows lie 2^36 bytes and more into a or b, its elements 2^32 and more into out."""
    M, N, K = 16, 64, 176
    device = gpu(target, sm_count=1)
    a, b = random_fp8(M, K, dtype=E4M3, seed=11), random_fp8(N, K, dtype=E4M3, seed=12)
    bias, out = torch.randn(N), torch.zeros(M, N)
    factors = scales()
    mp.scaled_mm(a, b, *factors, bias=bias, out=out, backend="cuda")
    near = out.clone()
    out.zero_()
    (each,) = device.launches
    assert "_16x64_" in each.kernel
    kernel = emulated.module(each.file, target, each.kernel)[each.kernel]
    buffers = [Buffer(t) for t in (a, b, out, bias, *factors)]
    params = FarParams(each, buffers, M, N, down, across)
    tiles = (1 + down) * (1 + across)
    launch(kernel, tiles, each.block, [params], shared_bytes=each.shared_bytes, ctas=[tiles - 1])
    assert_matches(out, near)


def plan(gpu: Gpu, target: str, M: int, N: int, K: int, sm_count: int | None = None, **options) -> str:
    """Expanded operands: a plan reads no bytes, and so takes no memory."""
    gpu(target, sm_count=sm_count)
    a, b = torch.empty(1, K, dtype=E4M3).expand(M, K), torch.empty(1, K, dtype=E4M3).expand(N, K)
    out = torch.empty(1, N, dtype=torch.bfloat16).expand(M, N)
    return mp.ops.scaled_mm.op.modules["cuda"].plan(a, b, *scales(), None, out, False, options.get("use_fast_accum", False))


def planned(text: str) -> tuple[str, int, int]:
    """(tile, rows of tiles, columns of tiles)"""
    found = re.search(r"tiles of (\d+) x (\d+) x 128, .* (\d+) x (\d+) tiles", text)
    assert found, text
    return f"{found[1]}x{found[2]}", int(found[3]), int(found[4])


@every_target
def test_plan_takes_the_tile_that_fits(gpu, target):
    full = {"sm_80": 108, "sm_89": 128, "sm_120a": 170}[target]
    assert planned(plan(gpu, target, 8192, 8192, 8192, full)) == ("128x128", 64, 64)
    assert planned(plan(gpu, target, 1, 4096, 4096, full)) == ("16x64", 1, 64)
    assert planned(plan(gpu, target, 16, 16384, 4096, full))[0] == "16x64"
    # Few tiles: smaller ones occupy more SMs.
    assert planned(plan(gpu, target, 512, 512, 8192, full))[0] == "64x64"


@every_target
def test_plan_covers_out_and_never_gets_slower_with_more_sms(gpu, target):
    for M, N, K in ((1, 1, 0), (1, 1, 1), (17, 63, 100), (129, 128, 4096), (4096, 11008, 4096), (2**20, 2**12, 128)):
        before = None
        for sm_count in (1, 7, 64, 142, 170):
            text = plan(gpu, target, M, N, K, sm_count)
            tile, rows, columns = planned(text)
            tile_m, tile_n = map(int, tile.split("x"))
            assert (rows - 1) * tile_m < M <= rows * tile_m
            assert (columns - 1) * tile_n < N <= columns * tile_n
            cycles = int(re.search(r"model: (\d+) cycles", text)[1])
            assert before is None or cycles <= before
            before = cycles


def test_explain_says_what_would_be_launched(gpu):
    gpu("sm_89")
    a, b = random_fp8(20, 70, dtype=E4M3, seed=9), random_fp8(30, 64, dtype=E4M3, seed=10)[:, :64]
    found = mp.explain("scaled_mm", a[:, :64].contiguous(), b, *scales())
    assert found["cuda"] is None
    assert found.plans["cuda"].startswith(
        "sm89, tiles of 16 x 64 x 128, 4 stages, sums promoted to FP32 every 128 of K, 2 x 1 tiles"
    )
    assert "sm89" in str(found)
    text = mp.explain("scaled_mm", a, random_fp8(30, 70, dtype=E4M3, seed=9), *scales(), use_fast_accum=True).plans["cuda"]
    assert "promoted" not in text
    assert "a is copied first: its rows do not begin at multiples of 16 bytes" in text


@pytest.mark.parametrize("target", ["sm_100a"])
def test_no_kernels_of_our_own_for_sm_100(gpu, target):
    gpu(target)
    a, b = random_fp8(16, 64, dtype=E4M3, seed=9), random_fp8(16, 64, dtype=E4M3, seed=10)
    assert mp.explain("scaled_mm", a, b, *scales())["cuda"] == "there are no hand-written kernels for sm_100"
    with pytest.raises(mp.BackendUnavailable, match="no hand-written kernels for sm_100"):
        mp.scaled_mm(a, b, *scales(), backend="cuda")


@every_target
def test_no_work_launches_nothing(gpu, target):
    device = gpu(target)
    for M, N in ((0, 16), (16, 0), (0, 0)):
        mp.scaled_mm(random_fp8(M, 64, dtype=E4M3, seed=9), random_fp8(N, 64, dtype=E4M3, seed=9), *scales(), backend="cuda")
        assert device.launches == []
