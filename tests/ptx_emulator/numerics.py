"""Floating-point arithmetic to the bit: rounding modes, fused multiply-add, narrow formats.

The tool is round-to-odd: a float64 that holds an exact result cut to 53 bits, with its last bit set if anything was cut
off, rounds to every format of at most 51 bits as the exact result would (Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)  # what the hardware makes when an operation gives NaN
NAN64 = np.uint64(0x7FF8000000000000).view(np.float64)
NAN16 = np.uint16(0x7FFF)  # float16 and bfloat16
SMALLEST_NORMAL32 = np.float32(2.0**-126)


def canonical(values: np.ndarray) -> np.ndarray:
    """Every NaN replaced by the one the hardware makes. In place."""
    bad = np.isnan(values)
    if bad.any():
        nan = {2: NAN16.view(np.float16), 4: NAN32, 8: NAN64}[values.dtype.itemsize]
        values = np.where(bad, nan, values)
    return values


def flush(values: np.ndarray) -> np.ndarray:
    """.ftz: subnormal float32 to zero of the same sign."""
    return np.where(np.abs(values) < SMALLEST_NORMAL32, np.copysign(np.float32(0), values), values)


def to_odd(high: np.ndarray, error: np.ndarray) -> np.ndarray:
    """High + error (error below half a unit of high in magnitude) rounded to odd."""
    bits = np.ascontiguousarray(high).view(np.int64)
    fix = (error != 0) & ((bits & 1) == 0) & np.isfinite(high)
    if not fix.any():
        return high
    # An even significand moves one unit toward the error. From zero (the sum cancelled) it takes the error itself.
    toward = np.where((error > 0) == (bits >= 0), 1, -1)
    moved = np.where(high == 0, error, (bits + toward).view(np.float64))
    return np.where(fix, moved, high)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rounded sum, exact error)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def sum_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two float64 rounded to odd."""
    return to_odd(*two_sum(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def fma_odd(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """A * b + c rounded to odd, for factors of at most 24 bits: their product is exact in float64."""
    return sum_odd(np.asarray(a, np.float64) * np.asarray(b, np.float64), c)


def round_to(values: np.ndarray, dtype: type, mode: str = "rn") -> np.ndarray:
    """float64 (exact or rounded to odd) to float32 or float16 in a rounding mode: rn, rz, rm, rp."""
    result = np.asarray(values, np.float64).astype(dtype)
    if mode == "rn":
        return result
    back = result.astype(np.float64)
    if mode == "rz":
        wrong, target = np.abs(back) > np.abs(values), dtype(0)
    elif mode == "rm":
        wrong, target = back > values, dtype(-np.inf)
    else:
        wrong, target = back < values, dtype(np.inf)
    if wrong.any():
        result = np.where(wrong, np.nextafter(result, target), result)
    if mode == "rm":  # x - x is -0 when rounding down
        return result
    return result


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), NAN16, rounded)


def f64_to_bf16(values: np.ndarray) -> np.ndarray:
    """float64, exact or rounded to odd, to nearest even: float32 rounded to odd on the way."""
    values = np.asarray(values, np.float64)
    near = values.astype(np.float32)
    return f32_to_bf16(to_odd_f32(near, values))


def to_odd_f32(near: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A float64 as float32 rounded to odd, given its nearest float32."""
    bits = np.ascontiguousarray(near).view(np.int32)
    error = values - near.astype(np.float64)
    fix = (error != 0) & ((bits & 1) == 0) & np.isfinite(near)
    toward = np.where((error > 0) == (bits >= 0), 1, -1).astype(np.int32)
    return np.where(fix, (bits + toward).view(np.float32), near)


def fma_f64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Correctly rounded, by exact rational arithmetic where the error-free transformation could over- or underflow."""
    a, b, c = (np.asarray(x, np.float64) for x in np.broadcast_arrays(a, b, c))
    product = a * b
    exponents = [np.frexp(x)[1] for x in (a, b, product, c)]
    safe = (
        (np.abs(exponents[2]) < 900) & (np.abs(exponents[3]) < 900) & (np.abs(exponents[0]) < 900) & (np.abs(exponents[1]) < 900)
    )
    splitter = 134217729.0  # 2^27 + 1, Veltkamp
    ah = a * splitter - (a * splitter - a)
    bh = b * splitter - (b * splitter - b)
    low = ((ah * bh - product) + ah * (b - bh) + (a - ah) * bh) + (a - ah) * (b - bh)
    high_sum, tail = two_sum(c, low)
    head, rest = two_sum(product, high_sum)
    result = head + sum_odd(tail, rest)
    finite = np.isfinite(product) & np.isfinite(c)
    for i in np.flatnonzero(finite & ~safe & (product != 0)):
        result[i] = float_of(Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i])))
    return np.where(finite & (product != 0), result, product + c)


def float_of(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


# Narrow formats.


@dataclass(frozen=True)
class Narrow:
    """A format of at most 16 bits: sign, `exponent` bits, `mantissa` bits.

    kind: "ieee" has infinities and NaNs at the top exponent; "fn" has one NaN at the very top and no infinity (E4M3);
    "finite" has neither (E2M1, E2M3, E3M2).
    """

    name: str
    exponent: int
    mantissa: int
    kind: str

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def smallest_exponent(self) -> int:
        return 1 - self.bias

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def top(self) -> int:
        """The code of the largest finite value."""
        all_ones = (1 << (self.exponent + self.mantissa)) - 1
        return {"ieee": all_ones - (1 << self.mantissa), "fn": all_ones - 1, "finite": all_ones}[self.kind]

    @property
    def nan(self) -> int:
        return (1 << (self.exponent + self.mantissa)) - 1  # positive, all ones: 0x7F for both FP8 formats

    @property
    def largest(self) -> float:
        return float(self.decode(np.array([self.top]))[0])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float64 values."""
        codes = np.asarray(codes).astype(np.int64)
        sign = np.where(codes >> (self.exponent + self.mantissa) & 1, -1.0, 1.0)
        exponent = codes >> self.mantissa & ((1 << self.exponent) - 1)
        mantissa = codes & ((1 << self.mantissa) - 1)
        normal = exponent > 0
        value = np.ldexp(
            (mantissa + np.where(normal, 1 << self.mantissa, 0)).astype(np.float64),
            np.maximum(exponent, 1) - self.bias - self.mantissa,
        )
        magnitude = codes & self.nan
        if self.kind == "ieee":
            special = exponent == (1 << self.exponent) - 1
            value = np.where(special, np.where(mantissa == 0, np.inf, np.nan), value)
        elif self.kind == "fn":
            value = np.where(magnitude == self.nan, np.nan, value)
        return sign * value

    def encode(self, values: np.ndarray, saturate: bool = True, mode: str = "rn") -> np.ndarray:
        """Codes of float64 values. Overflow: the largest finite value if `saturate`, else infinity or NaN. NaN gives the
        canonical NaN; in formats without one, the largest value.
        """
        values = np.asarray(values, np.float64)
        magnitude = np.abs(values)
        nan = np.isnan(values)
        magnitude = np.where(nan | np.isinf(values), 0, magnitude)
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, self.smallest_exponent)
        scaled = np.ldexp(magnitude, self.mantissa - exponent)  # in units of the last place: exact
        negative = np.signbit(values)
        whole = round_integer(scaled, mode, negative)
        carry = whole >= (2 << self.mantissa)
        exponent = exponent + carry
        whole = np.where(carry, whole / 2, whole).astype(np.int64)
        code = np.where(
            whole >= 1 << self.mantissa, ((exponent + self.bias) << self.mantissa) + whole - (1 << self.mantissa), whole
        )
        over = (code > self.top) | np.isinf(values)
        if over.any():
            away = over if mode == "rn" else np.isinf(values)  # directed rounding of a finite value ends at the largest
            limit = {"ieee": self.top + 1, "fn": self.nan, "finite": self.top}[self.kind]
            code = np.where(over, self.top if saturate else np.where(away, limit, self.top), code)
        code = np.where(negative, code | 1 << (self.bits - 1), code)
        return np.where(nan, self.nan if self.kind != "finite" else self.top, code).astype(np.uint16)


def round_integer(values: np.ndarray, mode: str, negative: np.ndarray | None = None) -> np.ndarray:
    """Non-negative float64 to whole numbers: rn (ties to even), rna (ties away), rz, rm, rp (need the sign)."""
    if mode == "rn":
        return np.rint(values)
    if mode == "rna":
        return np.floor(values + 0.5)
    if mode == "rz":
        return np.floor(values)
    assert negative is not None
    return np.where(negative == (mode == "rm"), np.ceil(values), np.floor(values))


E4M3 = Narrow("e4m3", 4, 3, "fn")
E5M2 = Narrow("e5m2", 5, 2, "ieee")
E2M3 = Narrow("e2m3", 2, 3, "finite")
E3M2 = Narrow("e3m2", 3, 2, "finite")
E2M1 = Narrow("e2m1", 2, 1, "finite")
F16 = Narrow("f16", 5, 10, "ieee")
BF16 = Narrow("bf16", 8, 7, "ieee")
NARROW = {f.name: f for f in (E4M3, E5M2, E2M3, E3M2, E2M1, F16, BF16)}
TABLES = {f.name: f.decode(np.arange(1 << f.bits)) for f in (E4M3, E5M2, E2M3, E3M2, E2M1)}  # float64 of every code
TABLES["ue8m0"] = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan)
TABLES["ue4m3"] = np.abs(E4M3.decode(np.arange(256)))  # the top bit is ignored
TABLES["e2m1x2"] = TABLES["e2m1"]
