"""Triton's kernels for sm_120 that transpose bytes: ldmatrix.m16n16.b8 and stmatrix.m16n8.b8 in code that hardware runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from .api import EVERY_POLICY

pytest.importorskip("triton")
pytest.importorskip("torch")
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .kernels import triton_kernels as kernels
from .triton_launch import bind_triton


@pytest.fixture(autouse=True, scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def values(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(("a_turned", "b_turned"), [(True, False), (True, True)])
def test_ldmatrix_transposes_bytes(a_turned, b_turned):
    block, depth = 64, 128
    a, b = values(block, depth, 0), values(block, depth, 1)
    want = a.double() @ b.double().T
    operands = [x.T.contiguous() if turned else x for x, turned in ((a, a_turned), (b, b_turned))]
    descriptors = [TensorDescriptor.from_tensor(x, [block, block]) for x in operands]
    out = torch.zeros(block, block)
    options = {"A_TURNED": a_turned, "B_TURNED": b_turned, "BLOCK": block, "num_stages": 2}
    bound = bind_triton(kernels.matmul_of_turned_descriptors, (*descriptors, out, depth), options, target=120)
    assert "ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8" in bound.kernel.ptx
    for policy in EVERY_POLICY:
        out.zero_()
        bound.launch(1, policy=policy)
        torch.testing.assert_close(out.double(), want, rtol=0, atol=float(want.abs().max()) * 2.0**-20)


def test_stmatrix_transposes_bytes():
    block = 64
    a, b = values(block, block, 0), values(block, block, 1)
    want = np.clip((a.double() @ b.double().T).numpy(), -448, 448)
    want = torch.from_numpy(want).float().to(torch.float8_e4m3fn).T
    out = torch.zeros((block, block), dtype=torch.float8_e4m3fn)
    args = (a, b, TensorDescriptor.from_tensor(out, [block, block]))
    bound = bind_triton(kernels.transposed_product, args, {"BLOCK": block}, target=120)
    assert "stmatrix.sync.aligned.m16n8.x4.trans.shared.b8" in bound.kernel.ptx
    for policy in EVERY_POLICY:
        out.zero_()
        bound.launch(1, policy=policy)
        assert (out.view(torch.uint8) == want.contiguous().view(torch.uint8)).float().mean() > 0.999
