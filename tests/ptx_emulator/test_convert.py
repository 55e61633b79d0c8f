"""Conversions against ml_dtypes, NumPy and torch; every value where 16 bits allow."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from .numerics import TABLES
from .testing import run_lanes

ALL16 = np.arange(1 << 16, dtype=np.uint16)
RNG = np.random.default_rng(0)
FP8 = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}


def float32_samples() -> np.ndarray:
    """Random bits, and values around every rounding boundary of the narrow formats."""
    bits = RNG.integers(0, 2**32, 8192, dtype=np.uint32).view(np.float32)
    halves = ALL16[::8].view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        around = [np.nextafter(halves, np.float32(s)) for s in (-np.inf, np.inf)]
    small = (RNG.standard_normal(8192) * 2.0 ** RNG.integers(-24, 18, 8192)).astype(np.float32)
    return np.concatenate([bits, halves, *around, small])


def saturated(values: np.ndarray, kind: str) -> np.ndarray:
    """The reference cast: clamp, then ml_dtypes; NaN is 0x7F."""
    with np.errstate(invalid="ignore"):
        codes = np.clip(values, -LARGEST[kind], LARGEST[kind]).astype(FP8[kind]).view(np.uint8)
    return np.where(np.isnan(values), np.uint8(0x7F), codes)


@pytest.mark.parametrize("kind", list(FP8))
def test_float32_pairs_to_fp8(kind):
    x = float32_samples()
    got = run_lanes(f"cvt.rn.satfinite.{kind}x2.f32 %o0, %i0, %i1;", "b16", ("f32", x), ("f32", x[::-1]))
    np.testing.assert_array_equal(got >> 8, saturated(x, kind))
    np.testing.assert_array_equal(got & 255, saturated(x[::-1], kind))


@pytest.mark.parametrize("kind", list(FP8))
def test_every_half_pair_to_fp8(kind):
    packed = ALL16.astype(np.uint32) | ALL16[::-1].astype(np.uint32) << 16
    got = run_lanes(f"cvt.rn.satfinite.{kind}x2.f16x2 %o0, %i0;", "b16", ("b32", packed))
    np.testing.assert_array_equal(got & 255, saturated(ALL16.view(np.float16), kind))
    np.testing.assert_array_equal(got >> 8, saturated(ALL16[::-1].view(np.float16), kind))


@pytest.mark.parametrize("kind", list(FP8))
def test_every_fp8_pair_to_half(kind):
    got = run_lanes(f"cvt.rn.f16x2.{kind}x2 %o0, %i0;", "b32", ("b16", ALL16))
    table = np.arange(256, dtype=np.uint8).view(FP8[kind]).astype(np.float16)
    for half, codes in ((got & 0xFFFF, ALL16 & 255), (got >> 16, ALL16 >> 8)):
        np.testing.assert_array_equal(half.astype(np.uint16).view(np.float16), table[codes])


def test_fp8_codes_agree_with_torch():
    for kind, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        want = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
        np.testing.assert_array_equal(TABLES[kind], want)


@pytest.mark.parametrize("kind", ["e2m1", "e2m3", "e3m2"])
def test_narrow_pairs(kind):
    """The value must be the nearest of the format's, ties to the even code, saturating."""
    x = np.concatenate([RNG.standard_normal(4096) * 4, np.linspace(-8, 8, 1025)[:1024]]).astype(np.float32)
    text = f"cvt.rn.satfinite.{kind}x2.f32 %o0, %i0, %i0;"
    if kind == "e2m1":
        text = ".reg .b8 %byte; cvt.rn.satfinite.e2m1x2.f32 %byte, %i0, %i0; cvt.u16.u8 %o0, %byte;"
    got = run_lanes(text, "b16", ("f32", x))
    codes = got & (15 if kind == "e2m1" else 255)
    table = TABLES[kind]
    distance = np.abs(table[None] - x[:, None].astype(np.float64))
    best = distance.min(axis=1)
    assert (np.abs(table[codes] - x) == best).all()
    ties = (distance == best[:, None]).sum(axis=1) > 1
    assert ((codes[ties & (x != 0)] & 1) == 0).all()


def test_bfloat16_rounds_to_nearest_even():
    x = float32_samples()
    with np.errstate(invalid="ignore"):
        want = x.astype(ml_dtypes.bfloat16).view(np.uint16)
    got = run_lanes("cvt.rn.bf16.f32 %o0, %i0;", "b16", ("f32", x))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number], want[number])
    assert (got[~number] == 0x7FFF).all()
    pair = run_lanes("cvt.rn.bf16x2.f32 %o0, %i0, %i1;", "b32", ("f32", x), ("f32", x[::-1]))
    np.testing.assert_array_equal(pair >> 16, got)
    np.testing.assert_array_equal(pair & 0xFFFF, got[::-1])


def test_half_round_trip_and_truncation():
    halves = run_lanes("cvt.f32.f16 %o0, %i0;", "f32", ("b16", ALL16))
    np.testing.assert_array_equal(halves, ALL16.view(np.float16).astype(np.float32))
    x = float32_samples()
    with np.errstate(over="ignore"):
        near = x.astype(np.float16)
    np.testing.assert_array_equal(run_lanes("cvt.rn.f16.f32 %o0, %i0;", "f16", ("f32", x)), near)
    cut = run_lanes("cvt.rz.f16.f32 %o0, %i0;", "f16", ("f32", x)).astype(np.float64)
    finite = np.isfinite(x)
    assert (np.abs(cut[finite]) <= np.abs(x[finite])).all()
    inside = finite & (np.abs(x) <= 65504)
    step = np.spacing(np.abs(cut[inside]).astype(np.float16)).astype(np.float64)
    assert (np.abs(x[inside]) - np.abs(cut[inside]) < step).all()


@pytest.mark.parametrize("mode", ["rzi", "rni", "rmi", "rpi"])
def test_float_to_integer_saturates(mode):
    x = np.concatenate(
        [float32_samples(), np.array([2.5, -2.5, 2147483648.0, -2147483648.0, 0.5, -0.5, 1e30, -1e30], np.float32)]
    )
    got = run_lanes(f"cvt.{mode}.s32.f32 %o0, %i0;", "s32", ("f32", x))
    function = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[mode]
    with np.errstate(invalid="ignore"):
        want = np.where(np.isnan(x), 0, np.clip(function(x.astype(np.float64)), -(2**31), 2**31 - 1)).astype(np.int64)
    np.testing.assert_array_equal(got, want)


def test_integer_conversions():
    x = RNG.integers(-(2**31), 2**31, 4096).astype(np.int32)
    np.testing.assert_array_equal(run_lanes("cvt.s64.s32 %o0, %i0;", "s64", ("s32", x)), x.astype(np.int64))
    np.testing.assert_array_equal(run_lanes("cvt.u64.u32 %o0, %i0;", "u64", ("s32", x)), x.astype(np.uint32).astype(np.uint64))
    np.testing.assert_array_equal(run_lanes("cvt.u16.u32 %o0, %i0;", "u16", ("s32", x)), x.astype(np.uint16))
    np.testing.assert_array_equal(run_lanes("cvt.s32.s8 %o0, %i0;", "s32", ("s32", x)), x.astype(np.int8).astype(np.int32))
    np.testing.assert_array_equal(run_lanes("cvt.sat.u8.s32 %o0, %i0;", "u32", ("s32", x)), np.clip(x, 0, 255).astype(np.uint32))
    np.testing.assert_array_equal(run_lanes("cvt.rn.f32.s32 %o0, %i0;", "f32", ("s32", x)), x.astype(np.float32))
    wide = RNG.integers(0, 2**64, 4096, dtype=np.uint64)
    np.testing.assert_array_equal(run_lanes("cvt.rn.f32.u64 %o0, %i0;", "f32", ("u64", wide)), wide.astype(np.float32))


def test_tf32_and_flush_to_zero():
    x = float32_samples()
    got = run_lanes("cvt.rna.tf32.f32 %o0, %i0;", "b32", ("f32", x))
    assert (got[~np.isnan(x)] & 0x1FFF == 0).all()
    normal = np.isfinite(x) & (np.abs(x) > 1e-30) & (np.abs(x) < 1e30)
    assert (np.abs(got.view(np.float32)[normal] / x[normal] - 1) <= 2.0**-11).all()
    tiny = np.array([1e-40, -1e-40, 2.0**-126, 0.0], np.float32)
    flushed = run_lanes("add.ftz.f32 %o0, %i0, 0f00000000;", "f32", ("f32", np.tile(tiny, 8)))
    np.testing.assert_array_equal(flushed[:4], [0.0, 0.0, 2.0**-126, 0.0])
