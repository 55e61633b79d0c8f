"""Kernels as nvcc compiles them, for every architecture, under every policy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Policy, Struct, launch
from .compile import compile_cuda, nvcc

RNG = np.random.default_rng(0)
TARGETS = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]
every_target = pytest.mark.parametrize("target", TARGETS)
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn


def adamw_arguments(n: int, grid: int, found_inf: float = 0.0) -> tuple[list[np.ndarray], Struct]:
    w, m, v, g = (RNG.standard_normal(n).astype(np.float32) for _ in range(4))
    v = np.abs(v)
    flag = np.array([found_inf], np.float32)
    return [w, m, v, g], Struct("PPPPPiffffff", w, m, v, g, flag, n, 1e-3, 0.9, 0.999, 1e-8, 0.01, 1 / 1024)


@every_target
def test_adamw(cuda, target):
    (w, m, v, g), params = adamw_arguments(4096, 4)
    grad = g.astype(np.float64) / 1024
    want_m = 0.9 * m + 0.1 * grad
    want_v = 0.999 * v + 0.001 * grad**2
    want = w - 1e-3 * (want_m / (np.sqrt(want_v) + 1e-8) + 0.01 * w)
    result = launch(cuda("elementwise", target)["adamw"], 4, 256, [params])
    np.testing.assert_allclose(w, want, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(m, want_m, rtol=1e-6, atol=1e-7)
    # The compulsory bytes: four arrays in, three out, the flag once for each thread.
    assert result.counters["global_store_bytes"] == 3 * 4 * 4096
    assert result.counters["global_load_bytes"] == 4 * 4 * 4096 + 4 * 1024
    assert result.counters["global_store_sectors"] == 3 * 4 * 4096 // 32


def test_adamw_writes_nothing_after_an_overflow(cuda):
    arrays, params = adamw_arguments(4096, 4, found_inf=1.0)
    before = [a.copy() for a in arrays]
    result = launch(cuda("elementwise", "sm_90a")["adamw"], 4, 256, [params])
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True))
    assert result.counters["global_store_bytes"] == 0


@every_target
@every_policy
def test_amax(cuda, target, policy):
    x = RNG.standard_normal(10000).astype(BF16)
    out = np.zeros(1, np.uint32)
    launch(cuda("elementwise", target)["amax"], 3, 256, [x.view(np.uint16), len(x), out], policy=policy)
    assert out.view(np.float32)[0] == np.abs(x.astype(np.float32)).max()


@every_policy
def test_amax_without_its_barrier_is_a_race_though_the_value_is_right(cuda, policy):
    x = RNG.standard_normal(10000).astype(BF16)
    kernel = cuda("elementwise", "sm_90a", "-DNO_BARRIER")["amax"]
    with pytest.raises(KernelFault) as caught:
        launch(kernel, 1, 256, [x.view(np.uint16), len(x), np.zeros(1, np.uint32)], policy=policy)
    assert {r.kind for r in caught.value.reports} <= {"race", "uninitialised"}
    assert "elementwise.cu:" in str(caught.value)


@every_target
def test_quantize_transpose(cuda, target):
    rows, cols = 128, 192
    x = (RNG.standard_normal((rows, cols)) * 100).astype(BF16)
    x[0, :4] = [600, 1e6, np.nan, -600]
    q, q_t = np.zeros((rows, cols), np.uint8), np.zeros((cols, rows), np.uint8)
    arguments = [x.view(np.uint16), np.array([1.7], np.float32), Buffer(q, "q", False), Buffer(q_t, "q_t", False), rows, cols]
    result = launch(cuda("elementwise", target)["quantize_transpose"], (cols // 64, rows // 64), (32, 8), arguments)
    scaled = x.astype(np.float32) * np.float32(1.7)
    with np.errstate(invalid="ignore"):
        want = np.where(np.isnan(scaled), 0x7F, np.clip(scaled, -448, 448).astype(E4M3).view(np.uint8))
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(q_t, want.T)
    assert result.counters["shared_load_conflicts"] == 768
    assert result.counters["shared_load_wavefronts"] == 1536
    assert result.counters["global_store_bytes"] == 2 * rows * cols


@pytest.mark.parametrize("target", ["sm_89", "sm_90a", "sm_120a"])
@every_policy
def test_gemm(cuda, target, policy):
    M, N, K = 64, 128, 320
    a, b = (RNG.standard_normal(shape).astype(E4M3) for shape in ((M, K), (N, K)))
    out = np.zeros((M, N), np.float32)
    arguments = [a.view(np.uint8), b.view(np.uint8), Buffer(out, "out", False), N, K]
    result = launch(cuda("gemm_sm89", target)["gemm"], (N // 64, M // 64), 128, arguments, policy=policy)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(out, exact, rtol=0, atol=K // 32 * 2.0**-24 * np.abs(exact).max() * 4)
    assert result.counters["mma"] == M * N * K // (16 * 8 * 32)
    assert result.counters["shared_load_conflicts"] == 0
    assert result.counters["global_load_bytes"] == (M * K * N // 64) + (N * K * M // 64)


def test_gemm_in_the_models_of_the_hardware(cuda):
    """The kernel's steps of K = 32 follow each other as two blocks of 16: the model over the whole K gives the same bits."""
    from .tensor_core import accumulate

    M = N = 64
    K = 512
    a, b = (RNG.standard_normal((64, K)).astype(E4M3) for _ in range(2))
    out = np.zeros((M, N), np.float32)
    launch(cuda("gemm_sm89", "sm_89")["gemm"], 1, 128, [a.view(np.uint8), b.view(np.uint8), out, N, K], numerics="ada")
    want = accumulate(a.astype(np.float64), b.astype(np.float64).T, np.zeros((M, N), np.float32), "ada", (-6, -6))
    np.testing.assert_array_equal(out, want)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    error = np.sqrt(np.mean((out - exact) ** 2)) / np.sqrt(np.mean(exact**2))
    assert 1e-4 < error < 1e-3  # 3.3e-4 is published for K = 512


@every_target
@every_policy
def test_language(cuda, target, policy):
    n, which = 256, 3
    out = np.zeros(n, np.int32)
    module = cuda("language", target)
    result = launch(module["language"], 2, 128, [Buffer(out, "out", False), n, which], policy=policy)
    want = [language(i, which) for i in range(n)]
    np.testing.assert_array_equal(out, np.array(want, np.int64).astype(np.int32) + 32)
    odd = [sum(int(v) & 1 for v in want[128 * b : 128 * b + 128]) for b in range(2)]
    assert sorted(result.printed) == [f"block {b}: {odd[b]} odd, 1.50 ok\n" for b in range(2)]
    assert module.variable("visits").view(np.int32)[0] == 2


def language(i: int, which: int) -> int:
    """kernels/language.cu for one thread."""
    table = [k * i for k in range(16)]
    table[which % 16] = i
    result = table[(i + which) % 16]
    if i % 8 == 0:
        n = i + 1
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            result += 1
        return result
    return {
        1: lambda: result * 3,
        2: lambda: result - (i // 8 % 4 + 1),
        3: lambda: result ^ 0x55,
        4: lambda: int(i * 0.5 + 2**20),
        5: lambda: bin(result).count("1") + 32 - i.bit_length(),
        6: lambda: int((i + 0.5) * 2),
        7: lambda: (i * 0x123456789ABCDEF) % 2**64 >> 40,
    }[i % 8]()


def test_assertions_are_findings(cuda):
    out = np.zeros(256, np.int32)
    with pytest.raises(KernelFault, match=r"assertion 'n < 1000000' failed at .*language.cu:"):
        launch(cuda("language", "sm_90a")["language"], 2, 128, [out, 1 << 20, 3], policy=Policy())


def test_some_ctas_of_a_grid_too_large_to_run(cuda):
    """The last CTA of 2^22 finds nothing to do; CTAs that were not asked for do nothing."""
    x = RNG.standard_normal(512).astype(BF16)
    out = np.zeros(1, np.uint32)
    kernel = cuda("elementwise", "sm_90a")["amax"]
    result = launch(kernel, 2**22, 256, [x.view(np.uint16), len(x), out], ctas=[1, 2**22 - 1])
    assert out.view(np.float32)[0] == np.abs(x[256:].astype(np.float32)).max()
    assert result.counters["global_load_bytes"] == 2 * 256


def test_ptx_is_cached_by_what_the_file_includes(tmp_path):
    if nvcc() is None:
        pytest.skip("nvcc is not on the path")
    (tmp_path / "constants").mkdir()
    inner = tmp_path / "constants/inner.cuh"
    (tmp_path / "constants/outer.cuh").write_text('#include "inner.cuh"\n')
    file = tmp_path / "store.cu"
    file.write_text('#include "constants/outer.cuh"\nextern "C" __global__ void store(int* out) { *out = kValue; }\n')
    for value in (7, 8, 7):
        inner.write_text(f"constexpr int kValue = {value};\n")
        out = np.zeros(1, np.int32)
        launch(compile_cuda(file, "sm_90a", (), tmp_path / "cache", [tmp_path])["store"], 1, 1, [out])
        assert out[0] == value
    assert len(list((tmp_path / "cache").glob("*.ptx"))) == 2
