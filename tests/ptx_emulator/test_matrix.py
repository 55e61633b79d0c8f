"""mma, ldmatrix, stmatrix: fragments by the formulas of the PTX ISA, written out element by element."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .api import KernelFault
from .tensor_core import accumulate
from .testing import run_lanes, run_text

RNG = np.random.default_rng(0)
DTYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "s8": np.int8,
    "u8": np.uint8,
}
CASES = [
    (16, "f16", "f16", "f32"),
    (16, "bf16", "bf16", "f32"),
    (16, "f16", "f16", "f16"),
    (8, "f16", "f16", "f32"),
    (8, "tf32", "tf32", "f32"),
    (4, "tf32", "tf32", "f32"),
    (32, "e4m3", "e4m3", "f32"),
    (32, "e5m2", "e4m3", "f32"),
    (32, "s8", "s8", "s32"),
    (32, "u8", "s8", "s32"),
    (16, "s8", "u8", "s32"),
]


def place_a(lane: int, i: int, k: int, per: int) -> tuple[int, int]:
    """(row, column) of element i of A's fragment; `per` elements share a 32-bit register."""
    group, thread = lane // 4, lane % 4
    register = i // per
    row = group if register % 2 == 0 else group + 8
    if k == 4 * per:  # the half-depth shapes have two registers
        return row, thread * per + i % per
    return row, thread * per + i % per + (0 if register < 2 else k // 2)


def place_b(lane: int, i: int, k: int, per: int) -> tuple[int, int]:
    row = lane % 4 * per + i % per + (0 if i < per else k // 2)
    return row, lane // 4


def place_c(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + i % 2


def random_matrix(kind: str, rows: int, columns: int) -> np.ndarray:
    if kind in ("s8", "u8"):
        return RNG.integers(0, 256, (rows, columns)).astype(np.uint8).view(DTYPES[kind])
    values = RNG.standard_normal((rows, columns)).astype(np.float32)
    if kind == "tf32":
        return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return values.astype(DTYPES[kind])


@pytest.mark.parametrize(("k", "kind_a", "kind_b", "kind_c"), CASES)
def test_fragments(k, kind_a, kind_b, kind_c):
    a, b = random_matrix(kind_a, 16, k), random_matrix(kind_b, k, 8)
    per = 4 // a.itemsize
    dtype_c = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[kind_c]
    c = (RNG.standard_normal((16, 8)) * 8).astype(dtype_c)
    registers_a, registers_b = 16 * k // 32 // per, 8 * k // 32 // per

    def fragment(matrix: np.ndarray, place, registers: int) -> list[np.ndarray]:
        out = np.zeros((32, registers * per), matrix.dtype)
        for lane in range(32):
            for i in range(registers * per):
                out[lane, i] = matrix[place(lane, i, k, per)]
        return list(out.view(np.uint8).view(np.uint32).T)

    frag_c = np.array([[c[place_c(lane, i)] for i in range(4)] for lane in range(32)], dtype_c)
    words_c = list(np.ascontiguousarray(frag_c).view(np.uint32).T)
    fa, fb = fragment(a, place_a, registers_a), fragment(b, place_b, registers_b)
    inputs = [("b32", w) for w in [*fa, *fb, *words_c]]
    names = [f"%i{i}" for i in range(len(inputs))]
    na, nb = registers_a, registers_a + registers_b
    outs = [f"%o{i}" for i in range(len(words_c))]
    groups = ["{" + ", ".join(g) + "}" for g in (outs, names[:na], names[na:nb], names[nb:])]
    text = f"mma.sync.aligned.m16n8k{k}.row.col.{kind_c}.{kind_a}.{kind_b}.{kind_c} {', '.join(groups)};"
    got = np.stack(run_lanes(text, ["b32"] * len(outs), *inputs), axis=1)
    got = np.ascontiguousarray(got).view(dtype_c)
    want = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    for lane in range(32):
        for i in range(4):
            assert got[lane, i] == want[place_c(lane, i)].astype(dtype_c)


def test_adas_accumulator_keeps_13_bits():
    """256 + 31 * 2^-6 is exactly 256: each small product is cut to nothing beside the large accumulator."""
    a = np.full((1, 32), 2.0**-3)
    b = np.full((32, 1), 2.0**-3)
    a[0, 31] = 0.0
    c = np.array([[256.0]], np.float32)
    assert accumulate(a, b, c, "ada", (-6, -6)) == 256.0
    assert accumulate(a, b, c, "exact") == 256.0 + 31 * 2.0**-6


def scalar_model(products: list[float], exponents: list[int], c: float, block: int) -> float:
    """The published step in Python integers, one output: align, cut to 13 bits, add, cut."""
    from fractions import Fraction

    def cut(value: Fraction, unit: Fraction) -> Fraction:
        whole = abs(value) // unit
        return (whole if value >= 0 else -whole) * unit

    total = Fraction(c)
    for start in range(0, len(products), block):
        terms = [
            (Fraction(p), e) for p, e in zip(products[start : start + block], exponents[start : start + block], strict=True) if p
        ]
        if total:
            terms.append((total, int(np.frexp(float(total))[1]) - 1))
        if not terms:
            continue
        unit = Fraction(2) ** (max(e for _, e in terms) - 13)
        total = sum((cut(p, unit) for p, _ in terms), Fraction(0))
        if total:
            total = cut(total, Fraction(2) ** (int(np.frexp(float(total))[1]) - 1 - 13)) if abs(total) >= unit * 2**13 else total
    return float(total)


@pytest.mark.parametrize(("model", "block"), [("ada", 16), ("hopper", 32)])
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_accumulation_models_against_a_scalar_one(model, block, kind):
    smallest = {"e4m3": -6, "e5m2": -14}[kind]
    a = (RNG.standard_normal((4, 64)) * 2.0 ** RNG.integers(-8, 4, (4, 64))).astype(DTYPES[kind]).astype(np.float64)
    b = (RNG.standard_normal((64, 4)) * 2.0 ** RNG.integers(-8, 4, (64, 4))).astype(DTYPES[kind]).astype(np.float64)
    c = (RNG.standard_normal((4, 4)) * 10).astype(np.float32)
    got = accumulate(a, b, c, model, (smallest, smallest))
    exponent = lambda v: max(int(np.frexp(v)[1]) - 1, smallest)  # noqa: E731
    for i in range(4):
        for j in range(4):
            products = [float(x * y) for x, y in zip(a[i], b[:, j], strict=True)]
            exponents = [exponent(x) + exponent(y) for x, y in zip(a[i], b[:, j], strict=True)]
            assert got[i, j] == np.float32(scalar_model(products, exponents, float(c[i, j]), block))


def test_special_values_in_the_models():
    a = np.array([[np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]])
    b = np.ones((2, 1))
    got = accumulate(a, b, np.zeros((3, 1), np.float32), "ada", (-14, -14))
    assert got.view(np.uint32)[0, 0] == 0x7FFFFFFF
    assert got[1, 0] == np.inf
    assert got.view(np.uint32)[2, 0] == 0


LOAD_TILE = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .shared .align 128 .b8 tile[1024];
mov.u32 %r0, %tid.x; mov.u32 %r1, tile; ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; mul.wide.u32 %rd2, %r0, 16;
add.s64 %rd0, %rd0, %rd2;
shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2; ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd0];
st.shared.v4.u32 [%r2], {%r3, %r4, %r5, %r6};
bar.warp.sync -1; add.s64 %rd1, %rd1, %rd2;"""


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    """Four 8x8 matrices of 16-bit elements; lane l's address is row l of them."""
    x = RNG.integers(0, 2**16, (4, 8, 8), dtype=np.uint16)
    y = np.zeros((32, 4, 2), np.uint16)
    trans = ".trans" if transposed else ""
    body = f"{LOAD_TILE} ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r7, %r8, %r9, %r10}}, [%r2];"
    body += "st.global.v4.u32 [%rd1], {%r7, %r8, %r9, %r10}; ret;"
    run_text(body, ".param .u64 x, .param .u64 y", [x, y])
    for lane in range(32):
        for matrix in range(4):
            m = x[matrix].T if transposed else x[matrix]
            row, column = lane // 4, lane % 4 * 2
            assert (y[lane, matrix] == m[row, column : column + 2]).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix_inverts_ldmatrix(transposed):
    x = RNG.integers(0, 2**16, (4, 8, 8), dtype=np.uint16)
    y = np.zeros_like(x)
    trans = ".trans" if transposed else ""
    body = f"""{LOAD_TILE} ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r7, %r8, %r9, %r10}}, [%r2]; add.u32 %r11, %r2, 512;
    stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r11], {{%r7, %r8, %r9, %r10}}; bar.warp.sync -1;
    ld.shared.v4.u32 {{%r3, %r4, %r5, %r6}}, [%r11]; st.global.v4.u32 [%rd1], {{%r3, %r4, %r5, %r6}}; ret;"""
    run_text(body, ".param .u64 x, .param .u64 y", [x, y])
    np.testing.assert_array_equal(x, y)


def test_ldmatrix_by_a_part_of_a_warp():
    body = (
        f"{LOAD_TILE} .reg .pred %p; setp.lt.u32 %p, %r0, 16; @%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r7}}, [%r2]; ret;"
    )
    with pytest.raises(KernelFault, match=r"an \.aligned instruction is executed by part of a warp"):
        run_text(body, ".param .u64 x, .param .u64 y", [np.zeros(512, np.uint8), np.zeros(512, np.uint8)])
