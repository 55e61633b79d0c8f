"""Triton's compiled kernels: known to be right on hardware, so a wrong value here is a mistake of the emulator."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, Policy, launch
from .compile import TritonKernel, compile_triton

pytest.importorskip("triton")
from .kernels import triton_kernels as kernels

RNG = np.random.default_rng(0)
BF16 = ml_dtypes.bfloat16
CODES = {"fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2, "fp16": np.float16, "bf16": BF16}
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


@pytest.fixture(autouse=True, scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def run(compiled: TritonKernel, grid, *arguments, policy: Policy | None = None, **how):
    return launch(
        compiled.kernel,
        grid,
        compiled.block,
        [*arguments, *compiled.scratch],
        shared_bytes=compiled.shared_bytes,
        policy=policy,
        **how,
    )


def matmul(dtype: str, target: int, block: tuple[int, int, int], **options) -> TritonKernel:
    pointer = f"*{dtype}"
    signature = {"a_ptr": pointer, "b_ptr": pointer, "out_ptr": "*bf16", "M": "i32", "N": "i32", "K": "i32"}
    constants = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), block, strict=True))
    return compile_triton(kernels.matmul, signature, constants, target, list(signature), **options)


@pytest.mark.parametrize(
    ("dtype", "target", "block", "options"),
    [
        ("fp8e4nv", 89, (128, 128, 64), {"num_warps": 4, "num_stages": 3}),
        ("fp8e5", 80, (64, 64, 64), {"num_warps": 4, "num_stages": 2}),
        ("fp16", 80, (64, 128, 32), {"num_warps": 8, "num_stages": 4}),
        ("bf16", 89, (32, 64, 64), {"num_warps": 2, "num_stages": 3}),
        ("bf16", 120, (64, 64, 32), {"num_warps": 4, "num_stages": 3}),
    ],
)
def test_matmul(dtype, target, block, options):
    M, N, K = 144, 160, 208  # ragged in every dimension
    a, b = (RNG.standard_normal(s).astype(CODES[dtype]) for s in ((M, K), (N, K)))
    compiled = matmul(dtype, target, block, **options)
    want = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32).astype(BF16).view(np.uint16)
    for policy in EVERY_POLICY:
        out = np.zeros((M, N), np.uint16)
        raw = [x.view(np.uint8 if x.itemsize == 1 else np.uint16) for x in (a, b)]
        grid = (-(-M // block[0]), -(-N // block[1]))
        result = run(compiled, grid, *raw, Buffer(out, "out", False), M, N, K, policy=policy)
        assert (out == want).mean() > 0.9995  # sums are rounded to float32 for each K step, not once
        assert result.counters["mma"] > 0


@pytest.mark.parametrize("target", [89, 90, 100, 120])
def test_quantize_transpose(target):
    signature = {
        "x_ptr": "*bf16",
        "quant_scale_ptr": "*fp32",
        "q_ptr": "*fp8e4nv",
        "q_t_ptr": "*fp8e4nv",
        "rows": "i32",
        "cols": "i32",
    }
    wide = [n for n in signature if n != "quant_scale_ptr"]
    compiled = compile_triton(kernels.quantize_transpose, signature, {"BLOCK": 64}, target, wide, num_warps=4)
    rows, cols = 128, 192
    x = (RNG.standard_normal((rows, cols)) * 100).astype(BF16)
    x[0, :4] = [600, 1e6, np.nan, -600]
    q, q_t = np.zeros((rows, cols), np.uint8), np.zeros((cols, rows), np.uint8)
    scale = np.array([1.7], np.float32)
    run(compiled, (2, 3), x.view(np.uint16), scale, Buffer(q, "q", False), Buffer(q_t, "q_t", False), rows, cols)
    scaled = x.astype(np.float32) * scale
    with np.errstate(invalid="ignore"):
        want = np.where(np.isnan(scaled), 0x7F, np.clip(scaled, -448, 448).astype(CODES["fp8e4nv"]).view(np.uint8))
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(q_t, want.T)


@every_policy
@pytest.mark.parametrize("target", [80, 90, 100])
def test_reductions(target, policy):
    softmax = compile_triton(
        kernels.softmax, {"x_ptr": "*fp32", "out_ptr": "*fp32", "cols": "i32"}, {"BLOCK": 1024}, target, num_warps=4
    )
    x = RNG.standard_normal((3, 1000)).astype(np.float32)
    out = np.zeros_like(x)
    run(softmax, 3, x, Buffer(out, "out", False), 1000, policy=policy)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(out, e / e.sum(1, keepdims=True), rtol=2e-6)

    amax = compile_triton(kernels.amax, {"x_ptr": "*bf16", "out_ptr": "*fp32", "n": "i32"}, {"BLOCK": 1024}, target, num_warps=4)
    y = RNG.standard_normal(5000).astype(BF16)
    most = np.full(1, -np.inf, np.float32)
    run(amax, 5, y.view(np.uint16), most, 5000, policy=policy)
    assert most[0] == np.abs(y.astype(np.float32)).max()


@pytest.mark.parametrize("target", [80, 90])
def test_scan_and_histogram(target):
    signature = {"x_ptr": "*i32", "out_ptr": "*i32", "hist_ptr": "*i32", "n": "i32"}
    compiled = compile_triton(kernels.cumulative, signature, {"BLOCK": 512}, target, num_warps=4)
    x = RNG.integers(0, 100, 500).astype(np.int32)
    out, histogram = np.zeros(500, np.int32), np.zeros(8, np.int32)
    run(compiled, 1, x, Buffer(out, "out", False), histogram, 500)
    np.testing.assert_array_equal(out, np.cumsum(x))
    np.testing.assert_array_equal(histogram, np.bincount(x % 8, minlength=8))
