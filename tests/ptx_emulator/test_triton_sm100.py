"""Triton's tcgen05 kernels for sm_100, which are right on hardware: right values and no report, whatever the policy is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .api import EVERY_POLICY, Buffer

pytest.importorskip("triton")
pytest.importorskip("torch")
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .kernels import triton_kernels as kernels
from .triton_launch import bind_triton

E4M3, F16, BF16 = torch.float8_e4m3fn, torch.float16, torch.bfloat16


@pytest.fixture(autouse=True, scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32) if dtype == torch.float32 else x  # tf32 as it is


def close(got: torch.Tensor, want: torch.Tensor, bits: int = 20) -> None:
    torch.testing.assert_close(got.double(), want, rtol=0, atol=float(want.abs().max()) * 2.0**-bits)


@pytest.mark.parametrize(
    ("dtype", "block", "warps"),
    [
        (E4M3, (128, 128, 64), 4),
        (F16, (128, 64, 64), 8),
        (BF16, (64, 128, 32), 4),
        (torch.float32, (128, 128, 32), 4),
        (F16, (256, 64, 32), 8),
    ],
)
def test_matmul_by_pointers(dtype, block, warps):
    M, N, K = 144, 80, 112  # ragged in every dimension
    a, b = values((M, K), dtype), values((N, K), dtype, 1)
    want = a.double() @ b.double().T
    out = torch.zeros((M, N), dtype=BF16)
    args = (a, b, Buffer(out, "out", initialised=False), M, N, K)
    options = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), block, strict=True)) | {"num_warps": warps}
    bound = bind_triton(kernels.matmul, args, options, target=100)
    for policy in EVERY_POLICY:
        result = bound.launch((-(-M // block[0]), -(-N // block[1])), policy=policy)
        close(out, want, 8)
        assert result.counters["tcgen05_mma"] > 0


@pytest.mark.parametrize("dtype", [F16, E4M3])
@pytest.mark.parametrize(("a_rows", "b_rows"), [(False, True), (True, False), (False, False)])
def test_operands_along_m_and_n(dtype, a_rows, b_rows):
    n, k = 128, 256
    a, b = values((n, k), dtype), values((k, n), dtype, 1)
    a = a if a_rows else a.T.contiguous().T
    b = b if not b_rows else b.T.contiguous().T
    out = torch.zeros(n, n)
    args = (a, b, out, k, *a.stride(), *b.stride())
    options = {"TWICE": False, "BLOCK": 128, "num_stages": 1}
    bound = bind_triton(kernels.matmul_of_strides, args, options, target=100)
    for policy in EVERY_POLICY[::3]:
        out.zero_()
        assert bound.launch(1, policy=policy).counters["tcgen05_mma"] > 0
        close(out, a.double() @ b.double())


@pytest.mark.parametrize(
    ("rows", "half", "emitted"), [(128, False, "32x32b.x64.b32"), (128, True, "pack::16b"), (64, True, "16x32bx2")]
)
def test_a_and_half_accumulators_in_tensor_memory(rows, half, emitted):
    a, b, c = values((rows, 64), F16), values((3 * 64, 64), F16, 1) / 8, values((3 * 64, 64), F16, 2) / 8
    want = torch.zeros((rows, 64), dtype=torch.float64)
    for i in range(3):
        p = (a.double() @ b[64 * i : 64 * i + 64].double().T).to(F16)
        want = want * 2 + p.double() @ c[64 * i : 64 * i + 64].double()
    out = torch.zeros(rows, 64)
    bound = bind_triton(kernels.two_matmuls, (a, b, c, out, 3), {"M": rows, "N": 64, "HALF": half}, target=100)
    assert emitted in bound.kernel.ptx
    products = [line for line in bound.kernel.ptx.splitlines() if "tcgen05.mma" in line]
    assert {line.count("[") for line in products} == {1, 2}  # A is in shared memory, then in tensor memory
    for policy in EVERY_POLICY:
        bound.launch(1, policy=policy)
        close(out, want, 8 if half else 19)


def host_descriptors(rows: int, dtype: torch.dtype):
    K = 512
    a, b, out = values((rows, K), dtype), values((128, K), dtype, 1), torch.zeros((rows, 128), dtype=BF16)
    descriptors = [TensorDescriptor.from_tensor(t, [128, 128]) for t in (a, b, out)]
    return (*descriptors, K), out, (a.double() @ b.double().T).to(BF16)


def test_matmul_by_descriptors():
    args, out, want = host_descriptors(256, E4M3)
    bound = bind_triton(kernels.matmul_by_host_descriptors, args, {"BLOCK": 128, "SPECIALIZE": False}, target=100)
    for policy in EVERY_POLICY:
        out.zero_()
        bound.launch((2, 1), policy=policy)
        assert torch.equal(out, want)


def test_warp_specialised_matmul():
    """Right values, and the one finding that docs/notes/2026-11-25-triton-invalidates-mbarriers-early.md explains."""
    args, out, want = host_descriptors(256, E4M3)
    bound = bind_triton(kernels.matmul_by_host_descriptors, args, {"BLOCK": 128, "SPECIALIZE": True}, target=100)
    assert "setmaxnreg" in bound.kernel.ptx
    for policy in EVERY_POLICY:
        out.zero_()
        result = bound.launch((2, 1), policy=policy, check=False)
        assert torch.equal(out, want)
        assert {(r.kind, r.instruction.name) for r in result.reports} == {("mbarrier", "mbarrier.inval.shared::cta.b64")}
        assert all("is invalidated while tcgen05.commit" in r.message for r in result.reports)


@pytest.mark.parametrize("warps", [4, 8])
def test_persistent_warp_specialised_matmul(warps):
    """Specialised over its tiles: no finding. Two CTAs take three tiles each."""
    args, out, want = host_descriptors(768, E4M3)
    args = (*args[:3], 768, 128, args[3])
    options = {"BLOCK": 128, "SPECIALIZE": True, "num_warps": warps}
    bound = bind_triton(kernels.persistent_matmul, args, options, target=100)
    assert "setmaxnreg" in bound.kernel.ptx
    for policy in EVERY_POLICY:
        out.zero_()
        bound.launch(2, policy=policy)
        assert torch.equal(out, want)


@pytest.mark.parametrize(("block_n", "warps"), [(128, 4), (256, 4), (128, 8)])
def test_scales_by_descriptors(block_n, warps):
    M, N, K = 128, 256, 384
    generator = torch.Generator().manual_seed(0)
    a, b = values((M, K), E4M3), values((N, K), E4M3, 1)
    scales = [torch.randint(120, 134, (n, K // 32), generator=generator).to(torch.uint8) for n in (M, N)]
    in_order = [
        s.view(len(s) // 128, 4, 32, K // 128, 4).permute(0, 3, 2, 1, 4).reshape(1, len(s) // 128, K // 128, 2, 256)
        for s in scales
    ]
    full_a, full_b = (
        x.double() * torch.exp2(s.double() - 127).repeat_interleave(32, 1) for x, s in zip((a, b), scales, strict=True)
    )
    out = torch.zeros(M, N)
    descriptor = TensorDescriptor.from_tensor
    args = (
        descriptor(a, [128, 128]),
        descriptor(in_order[0].contiguous(), [1, 1, 1, 2, 256]),
        descriptor(b, [block_n, 128]),
        descriptor(in_order[1].contiguous(), [1, block_n // 128, 1, 2, 256]),
        descriptor(out, [128, block_n]),
        K,
    )
    options = {"BLOCK_M": 128, "BLOCK_N": block_n, "BLOCK_K": 128, "num_warps": warps}
    bound = bind_triton(kernels.scaled_matmul_by_descriptors, args, options, target=100)
    assert "tcgen05.cp.cta_group::1.warpx4.32x128b" in bound.kernel.ptx
    for policy in EVERY_POLICY:
        out.zero_()
        assert bound.launch((1, N // block_n), policy=policy).counters["tcgen05_cp"] > 0
        close(out, full_a @ full_b.T)
