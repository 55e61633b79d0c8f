"""amax: contract in mpkernels/ops/amax/__init__.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import HIGH_PRECISION_DTYPES
from mpkernels.testing import all_codes, assert_matches, special_values, strided_views

dtypes = pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("size", [0, 1, 31, 1000, 70_001])
def test_equals_the_definition(backend, device, dtype, size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype).to(device)
    expected = x.float().abs().max() if size else torch.zeros(())
    assert_matches(mp.amax(x, backend=backend), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_single_value(backend, device, dtype):
    codes = all_codes(dtype).to(device)
    for code in codes[::4001]:
        assert_matches(mp.amax(code, backend=backend), code.float().abs())


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("position", [0, 17, 99_999])
def test_inf_and_nan_propagate(backend, device, dtype, bad, position):
    x = torch.randn(100_000).to(dtype)
    x[position] = bad
    assert_matches(mp.amax(x.to(device), backend=backend), torch.tensor(abs(bad)))


@dtypes
def test_nan_wins_over_inf(backend, device, dtype):
    assert mp.amax(special_values(dtype).to(device), backend=backend).isnan()


@dtypes
def test_strides(backend, device, dtype):
    for name, x in strided_views((13, 37), dtype):
        assert_matches(mp.amax(x.to(device), backend=backend), x.float().abs().max()), name


def test_negative_zero_gives_positive_zero(backend, device):
    assert_matches(mp.amax(torch.tensor([-0.0], device=device), backend=backend), torch.tensor(0.0))


@given(values=st.lists(st.floats(width=32), max_size=200))
def test_any_values(values):
    x = torch.tensor(values, dtype=torch.float32)
    assert_matches(mp.amax(x), mp.amax(x, backend="reference"))


def test_refuses_other_dtypes():
    with pytest.raises(TypeError, match=r"x must be one of torch.float32, .*got torch.float64"):
        mp.amax(torch.ones(3, dtype=torch.float64))


def test_opcheck(backend):
    torch.library.opcheck(torch.ops.mpkernels.amax.default, (torch.randn(33),), {"backend": backend})


def test_compiles_to_one_graph():
    compiled = torch.compile(lambda x: mp.amax(x * 2) + 1, fullgraph=True, backend="aot_eager")
    x = torch.randn(33)
    assert_matches(compiled(x), mp.amax(x * 2) + 1)
