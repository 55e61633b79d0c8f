"""quantize_current: contract in mpkernels/ops/quantize_current/__init__.py. By definition the three ops in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES, format_of
from mpkernels.testing import assert_matches, bits_of, special_values, strided_views

dtypes = pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
fp8_dtypes = pytest.mark.parametrize("fp8", FP8_DTYPES, ids=str)
any_backend = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_is_the_composition(
    x: torch.Tensor, fp8: torch.dtype, backend: str | None, *, margin: int = 0, power_of_two: bool = False
) -> None:
    amax = mp.amax(x, backend="reference")
    scales = mp.compute_scale(amax, fp8, margin=margin, power_of_two=power_of_two, backend="reference")
    for transpose in (False, True) if x.dim() == 2 else (False,):
        expected = mp.quantize(x, scales.quant_scale, fp8, transpose=transpose, backend="reference")
        got = mp.quantize_current(x, fp8, margin=margin, power_of_two=power_of_two, transpose=transpose, backend=backend)
        assert (got.q_t is None) == (not transpose)
        assert_matches(got.amax, amax)
        assert_matches(got.quant_scale, scales.quant_scale)
        assert_matches(got.dequant_scale, scales.dequant_scale)
        assert torch.equal(bits_of(got.q), bits_of(expected.q))
        assert got.q.stride() == expected.q.stride()
        if transpose:
            assert got.q_t.stride() == expected.q_t.stride()
            assert torch.equal(bits_of(got.q_t), bits_of(expected.q_t))


@pytest.mark.spread
@dtypes
@fp8_dtypes
@pytest.mark.parametrize("shape", [(1, 1), (63, 65), (1000, 3), (0, 5), (5, 0), (300, 700)], ids=str)
def test_is_the_composition(backend, device, dtype, fp8, shape):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 20).to(dtype).to(device)
    assert_is_the_composition(x, fp8, backend)


@pytest.mark.spread
@pytest.mark.parametrize("margin", [-1, 0, 2])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_margin_and_power_of_two(backend, device, margin, power_of_two):
    x = torch.randn(50, 70, generator=torch.Generator().manual_seed(0)).to(device)
    assert_is_the_composition(x, torch.float8_e4m3fn, backend, margin=margin, power_of_two=power_of_two)


@dtypes
def test_strides(backend, device, dtype):
    for _, x in strided_views((129, 300), dtype):
        assert_is_the_composition(x.to(device), torch.float8_e4m3fn, backend)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5)], ids=str)
def test_any_number_of_dims(backend, device, shape):
    assert_is_the_composition(torch.randn(shape, device=device), torch.float8_e5m2, backend)


@dtypes
@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_without_a_scale_it_uses_one(backend, device, dtype, bad):
    x = torch.zeros(40, 50, dtype=dtype, device=device)
    x[3, 4] = bad
    assert mp.quantize_current(x, backend=backend).quant_scale.item() == 1.0
    assert_is_the_composition(x, torch.float8_e4m3fn, backend)
    assert_is_the_composition(special_values(dtype).to(device), torch.float8_e4m3fn, backend)


@fp8_dtypes
def test_the_largest_value_lands_on_the_largest_code(backend, device, fp8):
    x = torch.randn(999, generator=torch.Generator().manual_seed(0)).to(device)
    result = mp.quantize_current(x, fp8, backend=backend)
    assert result.q.float().abs().max().item() == format_of(fp8).max


@any_backend
@given(data=st.data(), dtype=st.sampled_from(HIGH_PRECISION_DTYPES), fp8=st.sampled_from(FP8_DTYPES))
def test_any_shape_strides_and_values(backend, device, data, dtype, fp8):
    rows, columns, step = data.draw(st.integers(0, 150)), data.draw(st.integers(0, 150)), data.draw(st.integers(1, 2))
    magnitude = data.draw(st.floats(2.0**-60, 2.0**60))
    x = np.random.default_rng(data.draw(st.integers(0, 2**31))).standard_normal((rows, columns * step), dtype=np.float32)
    x = (torch.from_numpy(x) * magnitude).to(dtype)[:, ::step]
    assert_is_the_composition((x.t() if data.draw(st.booleans()) else x).to(device), fp8, backend)


def refused(error: type[Exception], sentence: str, *args: object, **kwargs: object) -> None:
    with pytest.raises(error, match=sentence):
        mp.quantize_current(*args, **kwargs)


def test_refusals():
    x = torch.ones(4, 6)
    refused(TypeError, r"x must be one of torch.float32, .*got torch.float64", x.double())
    refused(TypeError, r"dtype must be one of torch.float8_e4m3fn, .*got torch.int8", x, torch.int8)
    refused(ValueError, r"margin must be finite and >= -24 and <= 24, got -30", x, margin=-30)
    refused(ValueError, r"x must be \(M, K\) where transpose=True, got shape \(24,\)", x.view(24), transpose=True)


@pytest.mark.parametrize("transpose", [False, True])
def test_opcheck(backend, device, transpose):
    args = (torch.randn(33, 7, device=device), torch.float8_e4m3fn, 0, False, transpose)
    torch.library.opcheck(torch.ops.mpkernels.quantize_current.default, args, {"backend": backend})


def test_compiles_to_one_graph():
    def dequantized(x):
        result = mp.quantize_current(x * 2, transpose=True)
        return result.q.float() * result.dequant_scale, result.q_t.float(), result.amax

    x = torch.randn(33, 7)
    compiled = torch.compile(dequantized, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(x), dequantized(x), strict=True):
        assert_matches(got, expected)
