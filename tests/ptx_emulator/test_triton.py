"""compile_triton: kernels compiled for types that are given, not inferred from arguments; special values in casts."""

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
        want = np.where(np.isnan(scaled), 0x7F, np.clip(scaled, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(q_t, want.T)


@every_policy
@pytest.mark.parametrize("target", [80, 90, 100])
def test_amax(target, policy):
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
