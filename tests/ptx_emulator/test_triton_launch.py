"""bind_triton and launch_triton: arguments as Triton's launcher passes them, tensor descriptors of the host and the device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .api import EVERY_POLICY, Buffer, KernelFault

pytest.importorskip("triton")
pytest.importorskip("torch")
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .kernels import triton_kernels as kernels
from .triton_launch import bind_triton, launch_triton


@pytest.fixture(autouse=True, scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(
    ("target", "dtype"), [(90, torch.bfloat16), (90, torch.float8_e4m3fn), (100, torch.float32), (89, torch.float16)]
)
def test_host_descriptors(target, dtype):
    """Ragged: the last tiles leave the tensor. sm_89 has no TMA; the descriptors become pointers there."""
    x = values((100, 160), dtype)
    for policy in EVERY_POLICY:
        y = torch.zeros_like(x)
        descriptors = [TensorDescriptor.from_tensor(t, [32, 64]) for t in (x, y)]
        bound = bind_triton(kernels.copy_by_host_descriptors, descriptors, {"BLOCK_M": 32, "BLOCK_N": 64}, target=target)
        assert ("cp.async.bulk.tensor" in bound.kernel.ptx) == (target >= 90)
        bound.launch((4, 3), policy=policy)
        assert torch.equal(x.view(torch.uint8), y.view(torch.uint8))


@pytest.mark.parametrize(("target", "dtype"), [(90, torch.bfloat16), (90, torch.uint8), (100, torch.float32)])
def test_device_descriptors(target, dtype):
    x = values((100, 160), torch.float32).to(dtype)
    for policy in EVERY_POLICY:
        y = torch.zeros_like(x)
        args = (x, Buffer(y, "y", initialised=False), 100, 160)
        bound = bind_triton(kernels.copy_by_device_descriptors, args, {"BLOCK_M": 32, "BLOCK_N": 64}, target=target)
        assert "tensormap.replace" in bound.kernel.ptx
        bound.launch((2, 3), policy=policy)
        assert torch.equal(x, y)


@pytest.mark.parametrize(("target", "operation"), [(90, "add"), (100, "add"), (90, "min"), (90, "max"), (90, "xor")])
def test_reductions(target, operation):
    x, start = torch.randint(-99, 99, (128, 32), dtype=torch.int32), torch.randint(-99, 99, (32, 32), dtype=torch.int32)
    tiles = torch.cat([start[None], x.view(4, 32, 32)])
    want = {"add": tiles.sum(0), "min": tiles.amin(0), "max": tiles.amax(0)}.get(operation)
    if operation == "xor":
        want = tiles[0] ^ tiles[1] ^ tiles[2] ^ tiles[3] ^ tiles[4]
    for policy in EVERY_POLICY:
        y = start.clone()
        descriptors = [TensorDescriptor.from_tensor(t, [32, 32]) for t in (x, y)]
        options = {"BLOCK": 32, "OPERATION": operation}
        result = launch_triton(kernels.reduce_by_descriptors, 4, descriptors, options, target=target, policy=policy)
        assert torch.equal(y, want.to(torch.int32))
        assert result.counters["bulk_reduce_bytes"] == x.numel() * 4


def test_gather_and_scatter():
    """Rows outside of the tensor are zero when gathered, and dropped when scattered."""
    x = values((40, 96), torch.bfloat16)
    rows = torch.tensor([3, 0, 39, 40, 7, -1, 12, 12, 30, 31, 33, 32, 100, 2, 21, 19], dtype=torch.int32)
    for policy in EVERY_POLICY:
        y = torch.full((40, 64), 7.0, dtype=torch.bfloat16)
        descriptors = [TensorDescriptor.from_tensor(t, [1, 64]) for t in (x, y)]
        options = {"COUNT": 16, "WIDTH": 64}
        launch_triton(kernels.gather_by_descriptors, 1, (*descriptors, rows), options, target=100, policy=policy)
        want = torch.full((40, 64), 7.0, dtype=torch.bfloat16)
        for row in rows.tolist():
            if 0 <= row + 1 < 40:
                want[row + 1] = x[row, 16:80] if 0 <= row < 40 else 0
        assert torch.equal(y, want)


@pytest.mark.parametrize("stride", [1, 2, 16])
def test_scalars_tuples_and_specialisation(stride):
    x, y = values((512 * stride,), torch.float32), torch.zeros(512)
    args = ((x, y), 2.5, 3, stride)
    bound = bind_triton(kernels.scale_of_many, args, {"flag": True, "BLOCK": 256, "num_warps": 2}, target=90)
    assert len(bound.arguments) == (4 if stride == 1 else 5)  # the value 1 is compiled in
    assert bound.kernel.block == 64
    bound.launch(lambda meta: (512 // meta["BLOCK"],))
    torch.testing.assert_close(y, (x[::stride] + 3) * 2.5)


def test_clusters_have_as_many_ctas_as_the_options_say():
    x, y = values((256, 128), torch.bfloat16), torch.zeros((256, 128), dtype=torch.bfloat16)
    args = (x, y, 256, 128)
    result = launch_triton(
        kernels.copy_by_device_descriptors, (2, 1), args, {"BLOCK_M": 64, "BLOCK_N": 128, "num_ctas": 2}, target=90
    )
    assert torch.equal(x, y)
    assert result.cluster == (2, 1, 1)


def test_findings_name_the_arguments():
    x, y = values((64, 64), torch.bfloat16), torch.zeros((64, 64), dtype=torch.bfloat16)
    with pytest.raises(KernelFault, match=r"past the end of x_ptr \(8192 bytes\)"):
        launch_triton(kernels.copy_by_device_descriptors, (1, 1), (x, y, 65, 64), {"BLOCK_M": 64, "BLOCK_N": 64}, target=90)


def test_what_cannot_be_bound():
    with pytest.raises(TypeError, match=r"a @triton\.jit function is needed, not a function"):
        bind_triton(lambda x: None, (1,), target=90)
    with pytest.raises(KeyError, match="unrecognised"):
        bind_triton(kernels.scale_of_many, ((None, None), 1.0, 1, 1), {"flag": True, "BLOCK": 16, "wrong": 1}, target=90)


@pytest.mark.parametrize(
    ("dtype", "a_rows", "b_rows", "twice"),
    [
        (torch.float16, True, True, False),  # B lies along N
        (torch.bfloat16, False, False, False),  # A lies along M
        (torch.bfloat16, True, False, True),  # A in registers
        (torch.float8_e5m2, True, False, False),
        (torch.float32, True, False, False),  # tf32
    ],
)
def test_wgmma_in_all_layouts(dtype, a_rows, b_rows, twice):
    """No report: Triton's fences, waits and descriptors are right. The values say that the layouts are."""
    n, k = 64, 192
    a, b = values((n, k), dtype), values((k, n), dtype)
    a = a if a_rows else a.T.contiguous().T
    b = b if b_rows else b.T.contiguous().T
    cut = (lambda x: (x.view(torch.int32) & ~0x1FFF).view(torch.float32)) if dtype == torch.float32 else (lambda x: x)
    want = cut(a).double() @ cut(b).double() * (2 if twice else 1)
    out = torch.zeros(n, n)
    args = (a, b, out, k, *a.stride(), *b.stride())
    bound = bind_triton(kernels.matmul_of_strides, args, {"TWICE": twice, "BLOCK": 64, "num_stages": 3}, target=90)
    for policy in EVERY_POLICY:
        out.zero_()
        assert bound.launch(1, policy=policy).counters["wgmma"] > 0
        torch.testing.assert_close(out.double(), want, rtol=0, atol=float(want.abs().max()) * 2.0**-20)
