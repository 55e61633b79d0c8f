"""Arithmetic against NumPy and exact rationals."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from .testing import run_lanes

RNG = np.random.default_rng(0)
EDGES32 = np.array(
    [0x0, 0x80000000, 0x1, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000], np.uint32
)


def floats(count: int) -> np.ndarray:
    """Every class of float32, in random pairings."""
    bits = RNG.integers(0, 2**32, count, dtype=np.uint32)
    bits[: count // 4] = RNG.choice(EDGES32, count // 4)
    return bits.view(np.float32)


def near(x: np.ndarray) -> np.ndarray:
    """Values whose sum with x cancels or is of similar size."""
    return (-x * (1 + RNG.integers(-4, 5, len(x)) * 2.0**-23)).astype(np.float32)


def rounded(value: Fraction, mode: str) -> np.float32:
    """An exact rational to float32."""
    with np.errstate(over="ignore"):
        guess = np.float32(float(value))
    candidates = sorted(
        {float(c) for c in (guess, np.nextafter(guess, np.float32(-np.inf)), np.nextafter(guess, np.float32(np.inf)))}
    )
    finite = [c for c in candidates if np.isfinite(c)]
    below = max((c for c in finite if Fraction(c) <= value), default=-np.inf)
    above = min((c for c in finite if Fraction(c) >= value), default=np.inf)
    if below == above:
        return np.float32(below)
    if mode == "rz":
        return np.float32(below if value > 0 else above)
    return np.float32({"rm": below, "rp": above}[mode])


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bytes, any NaN equal to the canonical one."""
    bits = np.ascontiguousarray(want).view(f"u{want.dtype.itemsize}")
    nan = {2: 0x7FFF, 4: 0x7FFFFFFF, 8: 0x7FF8000000000000}[want.dtype.itemsize]
    bits = np.where(np.isnan(want), bits.dtype.type(nan), bits)
    np.testing.assert_array_equal(np.ascontiguousarray(got).view(bits.dtype), bits)


@pytest.mark.parametrize(
    ("name", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.true_divide)]
)
def test_float32_rounds_to_nearest(name, function):
    x, y = floats(4096), floats(4096)
    suffix = ".rn" if name == "div" else ""
    with np.errstate(all="ignore"):
        same_bits(run_lanes(f"{name}{suffix}.f32 %o0, %i0, %i1;", "f32", ("f32", x), ("f32", y)), function(x, y))


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["add", "mul", "div", "fma"])
def test_directed_rounding(name, mode):
    x = RNG.standard_normal(512).astype(np.float32)
    y = (RNG.standard_normal(512) * 2.0 ** RNG.integers(-20, 20, 512)).astype(np.float32)
    z = (-x * y).astype(np.float32)
    operands = {"fma": 3}.get(name, 2)
    text = f"{name}.{mode}.f32 %o0, " + ", ".join(f"%i{i}" for i in range(operands)) + ";"
    got = run_lanes(text, "f32", *[("f32", v) for v in (x, y, z)[:operands]])
    exact = {
        "add": lambda a, b, c: a + b,
        "mul": lambda a, b, c: a * b,
        "div": lambda a, b, c: a / b,
        "fma": lambda a, b, c: a * b + c,
    }[name]
    want = [rounded(exact(*(Fraction(float(v)) for v in row)), mode) for row in zip(x, y, z, strict=True)]
    np.testing.assert_array_equal(got, np.array(want))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("narrow", ["f16", "bf16"])
def test_mixed_precision(narrow, mode):
    """float32 results of 16-bit operands and a last one of 32 bits: rounded once."""
    kind = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}[narrow]
    x, y = (RNG.standard_normal(256).astype(kind) for _ in range(2))
    z = (x.astype(np.float32) * 2.0 ** RNG.integers(-20, 20, 256) * (1 + 2.0**-20)).astype(np.float32)
    cases = {"add": (lambda a, c: a + c, (x,)), "sub": (lambda a, c: a - c, (x,)), "fma": (lambda a, b, c: a * b + c, (x, y))}
    for name, (exact, narrow_ones) in cases.items():
        text = f"{name}.{mode}.f32.{narrow} %o0, " + ", ".join(f"%i{i}" for i in range(len(narrow_ones) + 1)) + ";"
        bits = [v.view(np.uint16) for v in narrow_ones]
        got = run_lanes(text, "f32", *[("b16", v) for v in bits], ("f32", z))
        rows = zip(*narrow_ones, z, strict=True)
        round_to = nearest if mode == "rn" else lambda v: rounded(v, mode)
        want = [round_to(exact(*(Fraction(float(v)) for v in row))) for row in rows]
        np.testing.assert_array_equal(got, np.array(want))
    assert 0 < run_lanes(f"add.sat.f32.{narrow} %o0, %i0, %i1;", "f32", ("b16", x.view(np.uint16)), ("f32", z)).max() <= 1


def test_fma_is_fused():
    x, y = floats(4096), floats(4096)
    with np.errstate(all="ignore"):
        z = near((x * y).astype(np.float32))
    got = run_lanes("fma.rn.f32 %o0, %i0, %i1, %i2;", "f32", ("f32", x), ("f32", y), ("f32", z))
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    for i in np.flatnonzero(finite):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        assert got[i] == nearest(exact), i
    assert np.isnan(got[np.isnan(x) | np.isnan(y) | np.isnan(z)]).all()


def nearest(value: Fraction) -> np.float32:
    """Round to nearest even, by integers."""
    if value == 0:
        return np.float32(0)
    magnitude = abs(value)
    exponent = max(magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 1, -126)
    while exponent > -126 and magnitude < Fraction(2) ** exponent:
        exponent -= 1
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 23)
    whole = round(magnitude / unit)  # Python rounds halves to even
    result = whole * unit
    if result >= Fraction(2) ** 128:
        return np.float32(np.inf if value > 0 else -np.inf)
    return np.float32(float(result if value > 0 else -result))


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_integer_division_truncates(kind):
    dtype = np.dtype({"s": "i", "u": "u"}[kind[0]] + str(int(kind[1:]) // 8))
    x = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 512, dtype=dtype)
    y = RNG.integers(1, 1000, 512).astype(dtype)
    got = run_lanes(f"div.{kind} %o0, %i0, %i1; rem.{kind} %o1, %i0, %i1;", [kind, kind], (kind, x), (kind, y))
    want = [abs(int(a)) // int(b) * (1 if a >= 0 else -1) for a, b in zip(x, y, strict=True)]
    np.testing.assert_array_equal(got[0], np.array(want, dtype))
    np.testing.assert_array_equal(got[1], np.array([int(a) - q * int(b) for a, b, q in zip(x, y, want, strict=True)], dtype))


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_high_product(kind):
    dtype = np.dtype({"s": "i", "u": "u"}[kind[0]] + str(int(kind[1:]) // 8))
    x, y = (RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 512, dtype=dtype, endpoint=True) for _ in range(2))
    got = run_lanes(f"mul.hi.{kind} %o0, %i0, %i1;", kind, (kind, x), (kind, y))
    want = np.array([int(a) * int(b) >> 8 * dtype.itemsize for a, b in zip(x, y, strict=True)], dtype)
    np.testing.assert_array_equal(got, want)


def test_wide_products_and_carries():
    x, y = (RNG.integers(-(2**31), 2**31, 256).astype(np.int32) for _ in range(2))
    got = run_lanes("mul.wide.s32 %o0, %i0, %i1;", "s64", ("s32", x), ("s32", y))
    np.testing.assert_array_equal(got, x.astype(np.int64) * y)
    low, high = (RNG.integers(0, 2**32, 256, dtype=np.uint32) for _ in range(2))
    text = "add.cc.u32 %o0, %i0, %i0; addc.u32 %o1, %i1, %i1;"
    a, b = run_lanes(text, ["u32", "u32"], ("u32", low), ("u32", high))
    want = (low.astype(object) + (high.astype(object) << 32)) * 2
    np.testing.assert_array_equal(a, np.array([w & 0xFFFFFFFF for w in want], np.uint32))
    np.testing.assert_array_equal(b, np.array([w >> 32 & 0xFFFFFFFF for w in want], np.uint32))


def test_multiply_add_with_carry():
    """A 64 x 64 -> 128-bit product from 32-bit pieces, as compilers write it."""
    parts = [RNG.integers(0, 2**32, 256, dtype=np.uint32) for _ in range(4)]
    text = """mul.lo.u32 %o0, %i0, %i2; mul.hi.u32 %o1, %i0, %i2; mad.lo.cc.u32 %o1, %i0, %i3, %o1; madc.hi.u32 %o2, %i0, %i3, 0;
    mad.lo.cc.u32 %o1, %i1, %i2, %o1; madc.hi.cc.u32 %o2, %i1, %i2, %o2; addc.u32 %o3, 0, 0;
    mad.lo.cc.u32 %o2, %i1, %i3, %o2; madc.hi.u32 %o3, %i1, %i3, %o3;"""
    got = run_lanes(text, ["u32"] * 4, *[("u32", p) for p in parts])
    a, b = (lo.astype(object) + (hi.astype(object) << 32) for lo, hi in (parts[:2], parts[2:]))
    for i, word in enumerate(got):
        np.testing.assert_array_equal(word, np.array([int(p) >> 32 * i & 0xFFFFFFFF for p in a * b], np.uint32))


def test_byte_dot_products_and_differences():
    x, y, z = (RNG.integers(0, 2**32, 256, dtype=np.uint32) for _ in range(3))
    text = "dp4a.s32.s32 %o0, %i0, %i1, %i2; dp4a.u32.u32 %o1, %i0, %i1, %i2; sad.s32 %o2, %i0, %i1, %i2;"
    signed, unsigned, difference = run_lanes(text, ["u32"] * 3, ("u32", x), ("u32", y), ("u32", z))
    for got, kind in ((signed, np.int8), (unsigned, np.uint8)):
        total = (x.view(kind).reshape(-1, 4).astype(np.int64) * y.view(kind).reshape(-1, 4)).sum(1) + z
        np.testing.assert_array_equal(got, total.astype(np.uint32))
    want = np.abs(x.view(np.int32).astype(np.int64) - y.view(np.int32)) + z
    np.testing.assert_array_equal(difference, want.astype(np.uint32))


def test_fma_decides_ties_by_the_far_away_operand():
    """(1 + 2^-12)^2 lies halfway between two float32; an addend of 2^-80 decides, for either sign of both."""
    a = np.float32(1 + 2.0**-12) * np.array([1, -1], np.float32).repeat(16)
    b = np.full(32, 1 + 2.0**-12, np.float32)
    c = (np.array([1, -1] * 16) * 2.0 ** -RNG.integers(60, 120, 32)).astype(np.float32)
    got = run_lanes("fma.rn.f32 %o0, %i0, %i1, %i2;", "f32", ("f32", a), ("f32", b), ("f32", c))
    want = [nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(got, want)
