"""Bits, comparisons and selections against Python integers."""

from __future__ import annotations

import numpy as np
import pytest

from .testing import run_lanes

RNG = np.random.default_rng(0)


def words(count: int = 512, bits: int = 32) -> np.ndarray:
    return RNG.integers(0, 2**bits, count, dtype=f"u{bits // 8}")


@pytest.mark.parametrize(
    ("name", "function"), [("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)]
)
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_bitwise(name, function, bits):
    x, y = words(bits=bits), words(bits=bits)
    kind = f"b{bits}"
    np.testing.assert_array_equal(run_lanes(f"{name}.{kind} %o0, %i0, %i1;", kind, (kind, x), (kind, y)), function(x, y))


def test_lop3_is_a_truth_table():
    x, y, z = words(), words(), words()
    got = run_lanes(
        "lop3.b32 %o0, %i0, %i1, %i2, 0x96; lop3.b32 %o1, %i0, %i1, %i2, 0xCA;", ["b32", "b32"], *[("b32", v) for v in (x, y, z)]
    )
    np.testing.assert_array_equal(got[0], x ^ y ^ z)
    np.testing.assert_array_equal(got[1], (x & y) | (~x & z))


@pytest.mark.parametrize("kind", ["b32", "u32", "s32", "b64", "s64", "u16"])
def test_shift_amounts_are_clamped(kind):
    bits = int(kind[1:])
    x = words(bits=bits)
    amount = RNG.integers(0, 2 * bits, len(x)).astype(np.uint32)
    right = "u" + kind[1:] if kind[0] == "b" else kind
    left, got = run_lanes(
        f"shl.b{bits} %o0, %i0, %i1; shr.{right} %o1, %i0, %i1;", [f"b{bits}"] * 2, (f"b{bits}", x), ("u32", amount)
    )
    mask = (1 << bits) - 1
    np.testing.assert_array_equal(left, [(int(v) << int(n)) & mask for v, n in zip(x, amount, strict=True)])
    signed = [int(v) - (1 << bits) if kind[0] == "s" and v >> (bits - 1) else int(v) for v in x]
    np.testing.assert_array_equal(got, [(v >> int(n)) & mask for v, n in zip(signed, amount, strict=True)])


def test_funnel_shift():
    low, high, n = words(), words(), words() % 70
    inputs = [("b32", v) for v in (low, high, n)]
    got = run_lanes("shf.l.clamp.b32 %o0, %i0, %i1, %i2; shf.r.wrap.b32 %o1, %i0, %i1, %i2;", ["b32", "b32"], *inputs)
    both = [int(a) | int(b) << 32 for a, b in zip(low, high, strict=True)]
    np.testing.assert_array_equal(got[0], [(v << min(int(s), 32)) >> 32 & 0xFFFFFFFF for v, s in zip(both, n, strict=True)])
    np.testing.assert_array_equal(got[1], [v >> (int(s) & 31) & 0xFFFFFFFF for v, s in zip(both, n, strict=True)])


def test_bit_fields():
    x, y = words(), words()
    start, count = words() % 40, words() % 40
    inputs = [("b32", v) for v in (x, y, start, count)]
    text = "bfe.u32 %o0, %i0, %i2, %i3; bfe.s32 %o1, %i0, %i2, %i3; bfi.b32 %o2, %i1, %i0, %i2, %i3;"
    unsigned, signed, inserted = run_lanes(text, ["u32", "u32", "b32"], *inputs)
    for i in range(len(x)):
        a, b, p, n = (int(v[i]) for v in (x, y, start, count))
        field = (a >> p) & ((1 << n) - 1)
        assert unsigned[i] == field
        sign = (a >> min(p + n - 1, 31)) & 1 if n else 0
        assert signed[i] == ((field | -(1 << min(n, 32))) & 0xFFFFFFFF if sign else field), (a, p, n)
        mask = (((1 << n) - 1) << p) & 0xFFFFFFFF
        assert inserted[i] == (a & ~mask) | (b << p & mask)


def test_permute_bytes():
    x, y, selector = words(), words(), words()
    got = run_lanes("prmt.b32 %o0, %i0, %i1, %i2;", "b32", *[("b32", v) for v in (x, y, selector)])
    for a, b, s, result in zip(x, y, selector, got, strict=True):
        pool = int(a).to_bytes(4, "little") + int(b).to_bytes(4, "little")
        want = []
        for i in range(4):
            pick = int(s) >> 4 * i & 15
            byte = pool[pick & 7]
            want.append((255 if byte & 128 else 0) if pick & 8 else byte)
        assert int(result).to_bytes(4, "little") == bytes(want)


def test_counting():
    x = np.concatenate([words(), np.array([0, 1, 2**31, 2**32 - 1], np.uint32), words(28)])
    text = "popc.b32 %o0, %i0; clz.b32 %o1, %i0; brev.b32 %o2, %i0; bfind.u32 %o3, %i0;"
    ones, zeros, reverse, top = run_lanes(text, ["u32"] * 4, ("b32", x))
    for i, v in enumerate(int(v) for v in x):
        assert ones[i] == bin(v).count("1")
        assert zeros[i] == 32 - v.bit_length()
        assert reverse[i] == int(f"{v:032b}"[::-1], 2)
        assert top[i] == (v.bit_length() - 1) % 2**32


def test_packing_moves():
    x = words(bits=64)
    text = ".reg .b32 %a, %b; mov.b64 {%a, %b}, %i0; mov.b64 %o0, {%b, %a};"
    got = run_lanes(text, "b64", ("b64", x))
    np.testing.assert_array_equal(got, x >> np.uint64(32) | x << np.uint64(32))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"])
def test_float_comparisons_and_nan(name):
    values = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40], np.float32)
    x, y = (v.reshape(-1) for v in np.meshgrid(values, values))
    got = run_lanes(f"setp.{name}.f32 %o0, %i0, %i1;", "pred", ("f32", x), ("f32", y))
    nan = np.isnan(x) | np.isnan(y)
    compare = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}
    if name in ("num", "nan"):
        want = nan if name == "nan" else ~nan
    else:
        want = (compare[name[:2]] | nan) if name.endswith("u") else (compare[name] & ~nan)
    np.testing.assert_array_equal(got != 0, want)


def test_setp_combines_and_gives_both():
    x, y = words() % 4, words() % 4
    c = words() % 2
    text = "setp.lt.and.u32 %o0|%o1, %i0, %i1, !%i2;"
    p, q = run_lanes(text, ["pred", "pred"], ("u32", x), ("u32", y), ("pred", c))
    np.testing.assert_array_equal(p != 0, (x < y) & (c == 0))
    np.testing.assert_array_equal(q != 0, (x >= y) & (c == 0))


def test_select_and_guard():
    x, y, c = words(), words(), words() % 2
    text = "selp.b32 %o0, %i0, %i1, %i2; mov.b32 %o1, %i1; @%i2 mov.b32 %o1, %i0; @!%i2 add.u32 %o1, %o1, 1;"
    a, b = run_lanes(text, ["b32", "b32"], ("b32", x), ("b32", y), ("pred", c))
    np.testing.assert_array_equal(a, np.where(c, x, y))
    np.testing.assert_array_equal(b, np.where(c, x, y + np.uint32(1)))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["min", "max", "min.NaN", "max.NaN"])
def test_float_extremes(kind, name):
    values = np.array([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 0.5], np.float32)
    x, y = (v.reshape(-1) for v in np.meshgrid(values, values))

    def encode(v: np.ndarray) -> np.ndarray:
        return {"f32": v, "f16": v.astype(np.float16), "bf16": (v.view(np.uint32) >> 16).astype(np.uint16)}[kind]

    got = run_lanes(f"{name}.{kind} %o0, %i0, %i1;", kind, (kind, encode(x)), (kind, encode(y)))
    got = (got.astype(np.uint32) << 16).view(np.float32) if kind == "bf16" else got.astype(np.float32)
    function = (min, max)[name.startswith("max")]
    for a, b, g in zip(x, y, got, strict=True):
        if np.isnan(a) or np.isnan(b):
            want = np.float32(np.nan) if "NaN" in name or (np.isnan(a) and np.isnan(b)) else (b if np.isnan(a) else a)
        else:
            want = function(a, b, key=lambda v: (float(v), not np.signbit(v)))
        assert np.array_equal(g, want, equal_nan=True)
        assert np.isnan(want) or np.signbit(g) == np.signbit(want)
