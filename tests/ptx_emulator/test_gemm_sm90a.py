"""A warp-specialised GEMM of sm_90a (TMA, mbarriers, wgmma, setmaxnreg, clusters): right, and broken in every way."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Result, launch
from .tensor_map import TensorMap

E4M3 = ml_dtypes.float8_e4m3fn
STAGES = 4
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


def matrices(M: int, N: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((M, K)).astype(E4M3), rng.standard_normal((N, K)).astype(E4M3)


def run(module, M: int, N: int, K: int, swizzle: str = "128B", rows_b: int = 128, **how) -> tuple[np.ndarray, Result]:
    a, b = (x.view(np.uint8) for x in matrices(M, N, K))
    out = np.zeros((M, N), np.float32)
    maps = [TensorMap(x, (rows, 128), swizzle=swizzle) for x, rows in ((a, 128), (b, rows_b))]
    arguments = [*maps, Buffer(out, "out", False), N, K]
    result = launch(module["gemm"], (N // 128, M // 128), 384, arguments, shared_bytes=STAGES * 2 * 16384, **how)
    return out, result


def assert_near(out: np.ndarray, K: int) -> None:
    a, b = matrices(*out.shape, K)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(out, exact, rtol=0, atol=K // 32 * 2.0**-24 * np.abs(exact).max())


@every_policy
def test_gemm(cuda, policy):
    M, N, K = 256, 128, 768  # each stage of the ring is used at least once more
    out, result = run(cuda("gemm_sm90a", "sm_90a"), M, N, K, policy=policy)
    assert_near(out, K)
    assert result.counters["wgmma"] == M * N * K // (64 * 128 * 32)
    assert result.counters["bulk_load_bytes"] == 2 * (128 * K + 128 * K)
    assert result.counters["global_store_bytes"] == 4 * M * N
    assert result.counters["global_store_sectors"] == 4 * M * N // 32


def test_the_accumulation_of_the_hardware(cuda):
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("mmaemu.model")
    M, N, K = 128, 128, 256
    out, _ = run(cuda("gemm_sm90a", "sm_90a"), M, N, K, numerics="hopper")
    a, b = (torch.from_numpy(x.view(np.uint8)) for x in matrices(M, N, K))
    spread = [x.expand(M, N, K).contiguous().view(torch.float8_e4m3fn) for x in (a[:, None], b[None])]
    np.testing.assert_array_equal(out.view(np.uint32), model.dot(*spread, preset="hopper").numpy().view(np.uint32))


BROKEN = {
    "no wgmma.fence": ("-DWGMMA_FENCE=", "wgmma-fence: uses register %f", "with no wgmma.fence since the start of the kernel"),
    "no last wait": ("-DLAST_WAIT=", "in-flight: reads register %f", "wgmma.wait_group must come before"),
    "stage released too early": (
        "-DLEFT_PENDING=2",
        "while an asynchronous operation may still be reading it (no wait came before)",
        "race: writes 8 bytes at byte 0 of shared smem (131072 bytes), which wgmma of warps 0 to 3 reads",
    ),
    "half of the bytes expected": (
        "-DEXPECTED_BYTES=kTileBytes",
        "asynchronously reads",
        "while an asynchronous operation may still be writing it",
        "with no barrier or wait between",
    ),
    "too many bytes expected": (
        "-DEXPECTED_BYTES=(3*kTileBytes)",
        "deadlock: ",
        "256 threads wait for phase 0 of the mbarrier",
        "which lacks 0 arrivals and 16384 bytes",
    ),
    "producer's parity": ("-DPRODUCER_PARITY=phase", "deadlock: ", "which lacks 2 arrivals and 0 bytes"),
    "consumer's parity": ("-DCONSUMER_PARITY=(phase^1)", "asynchronously reads 16 bytes at byte 0 of shared smem", "deadlock: "),
    "too few registers given": (
        "-DSMALL=64",
        "deadlock: ",
        "registers of its warp to get to 232 each",
        "168 a thread at launch are 64512 in all, setmaxnreg.dec gives to the pool",
    ),
    "swizzle of the descriptors": (
        "-DSWIZZLE=2",
        "descriptor: the descriptor of A says 64-byte swizzle, but TMA wrote 16 bytes at byte",
        "with 128-byte swizzle at PTX line",
    ),
}


@every_policy
@pytest.mark.parametrize("what", BROKEN)
def test_broken(cuda, what, policy):
    flag, first, *others = BROKEN[what]
    with pytest.raises(KernelFault) as caught:
        run(cuda("gemm_sm90a", "sm_90a", flag), 128, 128, 1024, policy=policy)
    text = str(caught.value)
    # How it shows depends on what has happened by chance when data is used too early.
    varies = what in ("half of the bytes expected", "consumer's parity", "stage released too early")
    assert any(w in text for w in (first, *others)) if varies else all(w in text for w in (first, *others))
    assert "gemm_sm90a.cu:" in text


def test_a_map_without_swizzle(cuda):
    with pytest.raises(KernelFault, match=r"descriptor of A says 128-byte swizzle, but TMA wrote .* with no swizzle at PTX line"):
        run(cuda("gemm_sm90a", "sm_90a"), 128, 128, 128, swizzle="none")


@every_policy
def test_pairs_of_ctas_share_a_tile(cuda, policy):
    """Each CTA loads half of B and multicasts it: B is read once for both."""
    M, N, K = 512, 128, 640
    module = cuda("gemm_sm90a", "sm_90a", "-DCLUSTER=2")
    out, result = run(module, M, N, K, rows_b=64, policy=policy)
    assert_near(out, K)
    assert result.counters["bulk_load_bytes"] == M * K + M // 256 * N * K


@every_policy
def test_a_cta_that_ends_before_its_partner(cuda, policy):
    """The last arrivals of the other CTA may find its shared memory gone."""
    module = cuda("gemm_sm90a", "sm_90a", "-DCLUSTER=2", "-DLAST_SYNC=")
    with pytest.raises(KernelFault) as caught:
        run(module, 256, 128, 640, rows_b=64, policy=policy)
    assert "freed: the shared memory of CTA 0 of the cluster is accessed by warp" in str(caught.value)
    assert "but nothing makes the CTA wait for that before it ends" in str(caught.value)
