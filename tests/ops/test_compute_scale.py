"""compute_scale: contract in mpkernels/ops/compute_scale/__init__.py. The oracle is exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import FP8_DTYPES, FP32, format_of
from mpkernels.testing import assert_matches

fp8_dtypes = pytest.mark.parametrize("fp8", FP8_DTYPES, ids=str)
any_backend = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

finite_amaxes = st.floats(min_value=FP32.smallest_subnormal, max_value=FP32.max, width=32)
margins = st.integers(-24, 24)


def nearest_fp32(exact: Fraction) -> float:
    """A positive rational rounded to FP32: to nearest, ties to even; the largest finite value beyond it."""
    exponent = max(math.frexp(float(exact))[1] - 1, -126)
    if Fraction(2) ** exponent > exact > 0 and exponent > -126:
        exponent -= 1  # float() had rounded up to a power of two
    ulp = Fraction(2) ** (exponent - 23)
    return float(min(round(exact / ulp) * ulp, Fraction(FP32.max)))  # round() of a Fraction ties to even


def power_of_two_below(value: float) -> float:
    return 2.0 ** (math.frexp(value)[1] - 1)


def assert_scales(amax: float, fp8: torch.dtype, margin: int, power_of_two: bool, backend: str | None, device: str) -> None:
    quant_scale = nearest_fp32(Fraction(format_of(fp8).max) / (Fraction(amax) * Fraction(2) ** margin))
    if power_of_two:
        quant_scale = power_of_two_below(quant_scale)
    got = mp.compute_scale(torch.tensor(amax, device=device), fp8, margin=margin, power_of_two=power_of_two, backend=backend)
    assert (got.quant_scale.item(), got.dequant_scale.item()) == (quant_scale, nearest_fp32(1 / Fraction(quant_scale))), (
        amax,
        margin,
        power_of_two,
    )


@fp8_dtypes
@pytest.mark.parametrize("power_of_two", [False, True])
def test_correctly_rounded_at_every_exponent(backend, device, fp8, power_of_two, thinned):
    """Each exponent of amax, subnormals included, with the edges of the fraction, 7 (which divides exactly) and random ones."""
    random = np.random.default_rng(0)
    for exponent in thinned(range(255), 31):
        fractions = [0, 1, 2**23 - 1, 3 << 21, int(random.integers(2**23))]
        for fraction in fractions[exponent == 0 :]:
            amax = np.uint32(exponent << 23 | fraction).view(np.float32).item()
            assert_scales(amax, fp8, int(random.integers(-24, 25)), power_of_two, backend, device)


@any_backend
@given(amax=finite_amaxes, fp8=st.sampled_from(FP8_DTYPES), margin=margins, power_of_two=st.booleans())
def test_correctly_rounded_for_any_amax(backend, device, amax, fp8, margin, power_of_two):
    assert_scales(amax, fp8, margin, power_of_two, backend, device)


@pytest.mark.spread
@fp8_dtypes
@pytest.mark.parametrize("margin", [-24, 0, 24])
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("amax", [FP32.smallest_subnormal, 3 * FP32.smallest_subnormal, FP32.smallest_normal, FP32.max])
def test_edges_of_fp32(backend, device, amax, fp8, margin, power_of_two):
    """Where amax * 2^margin leaves FP32, and where either scale saturates or is subnormal."""
    assert_scales(amax, fp8, margin, power_of_two, backend, device)


@pytest.mark.spread
@pytest.mark.parametrize("amax", [0.0, -0.0, float("inf"), float("nan"), -1.0, -float("inf")])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_no_scale_in_amax(backend, device, amax, power_of_two):
    statistic = torch.tensor(amax, device=device)
    one = torch.ones(())
    got = mp.compute_scale(statistic, torch.float8_e4m3fn, margin=3, power_of_two=power_of_two, backend=backend)
    assert_matches(got.quant_scale, one)
    assert_matches(got.dequant_scale, one)
    for previous in (3.0, 2.0**-140, 1e-45, FP32.max):
        kept = torch.tensor(previous, device=device)
        got = mp.compute_scale(statistic, torch.float8_e4m3fn, power_of_two=power_of_two, previous=kept, backend=backend)
        assert_matches(got.quant_scale, kept)
        assert got.dequant_scale.item() == nearest_fp32(1 / Fraction(kept.item()))


def test_previous_is_ignored_where_amax_gives_a_scale(backend, device):
    previous = torch.tensor(5.0, device=device)
    got = mp.compute_scale(torch.tensor(448.0, device=device), torch.float8_e4m3fn, previous=previous, backend=backend)
    assert got.quant_scale.item() == 1.0


@fp8_dtypes
def test_amax_lands_on_the_largest_code(backend, device, fp8, thinned):
    for amax in thinned(torch.rand(50, generator=torch.Generator().manual_seed(0), device=device) * 1000, 17):
        quant_scale = mp.compute_scale(amax, fp8, backend=backend).quant_scale
        assert mp.quantize(amax, quant_scale, fp8).q.float().item() == format_of(fp8).max


@any_backend
@given(amax=st.floats(width=32), previous=st.none() | st.floats(width=32), margin=margins, power_of_two=st.booleans())
def test_any_arguments_equal_the_reference(backend, device, amax, previous, margin, power_of_two):
    args = {"margin": margin, "power_of_two": power_of_two}
    args["previous"] = None if previous is None else torch.tensor(previous, device=device)
    statistic = torch.tensor(amax, device=device)
    got = mp.compute_scale(statistic, torch.float8_e5m2, **args, backend=backend)
    for mine, expected in zip(got, mp.compute_scale(statistic, torch.float8_e5m2, **args, backend="reference"), strict=True):
        assert_matches(mine, expected)


def refused(error: type[Exception], sentence: str, *args: object, **kwargs: object) -> None:
    with pytest.raises(error, match=sentence):
        mp.compute_scale(*args, **kwargs)


def test_refusals():
    amax, fp8 = torch.tensor(1.0), torch.float8_e4m3fn
    refused(TypeError, r"amax must be a float32 .*got torch.bfloat16 of shape \(\)", amax.bfloat16(), fp8)
    refused(TypeError, r"amax must be a float32 .*got torch.float32 of shape \(2,\)", torch.ones(2), fp8)
    refused(TypeError, r"dtype must be one of torch.float8_e4m3fn, .*got torch.float32", amax, torch.float32)
    refused(ValueError, r"margin must be finite and >= -24 and <= 24, got 25", amax, fp8, margin=25)
    refused(TypeError, r"previous must be a float32 .*got torch.float64", amax, fp8, previous=amax.double())
    refused(ValueError, r"previous must be on cpu .*got meta", amax, fp8, previous=amax.to("meta"))


@pytest.mark.parametrize("previous", [None, 2.0])
def test_opcheck(backend, device, previous):
    previous = None if previous is None else torch.tensor(previous, device=device)
    args = (torch.tensor(3.0, device=device), torch.float8_e4m3fn, 0, True, previous)
    torch.library.opcheck(torch.ops.mpkernels.compute_scale.default, args, {"backend": backend})


def test_compiles_to_one_graph():
    def scales(amax):
        result = mp.compute_scale(amax * 2, torch.float8_e5m2, margin=1)
        return result.quant_scale + 1, result.dequant_scale

    amax = torch.tensor(3.0)
    for got, expected in zip(torch.compile(scales, fullgraph=True, backend="aot_eager")(amax), scales(amax), strict=True):
        assert_matches(got, expected)
