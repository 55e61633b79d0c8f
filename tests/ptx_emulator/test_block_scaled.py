"""Narrow formats and block scales: mma.sync of sm_120a element by element, Triton's dot_scaled for sm_120 and sm_100."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, PTXError, load
from .test_matrix import place_a, place_b, place_c
from .testing import entry, run_lanes

RNG = np.random.default_rng(0)
DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "ue8m0": ml_dtypes.float8_e8m0fnu,
    "ue4m3": ml_dtypes.float8_e4m3fn,
}
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


def codes(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Every code of the format but NaN and infinity; scales near 1."""
    if kind in ("ue8m0", "ue4m3"):
        return RNG.integers(118, 136, shape).astype(np.uint8) if kind == "ue8m0" else RNG.integers(0, 127, shape).astype(np.uint8)
    bits = {"e2m1": 4, "e3m2": 6, "e2m3": 6}.get(kind, 8)
    raw = RNG.integers(0, 1 << bits, shape).astype(np.uint8)
    return np.where(np.isfinite(values(kind, raw)), raw, 0).astype(np.uint8)


def values(kind: str, raw: np.ndarray) -> np.ndarray:
    return raw.view(DTYPES[kind]).astype(np.float64)


def fragment(raw: np.ndarray, place, k: int, registers: int) -> list[np.ndarray]:
    """32 lanes' registers from a matrix of bytes."""
    per = 4
    out = np.zeros((32, registers * per), np.uint8)
    for lane in range(32):
        for i in range(registers * per):
            out[lane, i] = raw[place(lane, i, k, per)]
    return list(out.view(np.uint32).T)


def in_a_byte(kind: str, raw: np.ndarray) -> np.ndarray:
    return raw << 2 if kind == "e2m1" else raw


def run_mma(text: str, groups: list[list[np.ndarray]], c: np.ndarray, tail: str = "", extra: list[np.ndarray] | None = None):
    """The 16 x 8 result of an mma. `tail` follows c and may name the registers of `extra` as {0}, {1}."""
    words_c = [np.array([c[place_c(lane, i)] for lane in range(32)], np.float32).view(np.uint32) for i in range(4)]
    inputs, names = [], []
    for group in [*groups, words_c]:
        names.append("{" + ", ".join(f"%i{len(inputs) + i}" for i in range(len(group))) + "}")
        inputs += [("b32", word) for word in group]
    more = [f"%i{len(inputs) + i}" for i in range(len(extra or []))]
    inputs += [("b32", word) for word in extra or []]
    line = f"{text} {{%o0, %o1, %o2, %o3}}, {', '.join(names)}{tail.format(*more)};"
    got = np.stack(run_lanes(line, ["b32"] * 4, *inputs, target="sm_120a"), axis=1)
    out = np.zeros((16, 8), np.float32)
    for lane in range(32):
        for i in range(4):
            out[place_c(lane, i)] = np.ascontiguousarray(got).view(np.float32)[lane, i]
    return out


@pytest.mark.parametrize(("kind_a", "kind_b"), [("e2m1", "e4m3"), ("e3m2", "e2m3"), ("e5m2", "e2m1"), ("e4m3", "e5m2")])
def test_narrow_formats_without_scales(kind_a, kind_b):
    a, b = codes(kind_a, (16, 32)), codes(kind_b, (32, 8))
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    groups = [fragment(in_a_byte(kind_a, a), place_a, 32, 4), fragment(in_a_byte(kind_b, b), place_b, 32, 2)]
    got = run_mma(f"mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.{kind_a}.{kind_b}.f32", groups, c)
    np.testing.assert_array_equal(got, (values(kind_a, a) @ values(kind_b, b) + c).astype(np.float32))


def scale_registers(scales: np.ndarray, byte: int, thread: int, for_a: bool) -> np.ndarray:
    """(rows, blocks) scale codes in the lanes that the selector names; noise elsewhere."""
    out = RNG.integers(0, 256, (32, 4)).astype(np.uint8)
    for row in range(len(scales)):
        lane = 4 * (row % 8) + (2 * thread + row // 8 if for_a else thread)
        out[lane, byte : byte + scales.shape[1]] = scales[row]
    return out.view(np.uint32)[:, 0]


@pytest.mark.parametrize(
    ("kind", "kind_a", "kind_b", "vector", "form"),
    [
        ("mxf8f6f4", "e4m3", "e4m3", 1, "ue8m0"),
        ("mxf8f6f4", "e5m2", "e2m1", 1, "ue8m0"),
        ("mxf8f6f4", "e3m2", "e2m3", 1, "ue8m0"),
        ("mxf4", "e2m1", "e2m1", 2, "ue8m0"),
        pytest.param("mxf4nvf4", "e2m1", "e2m1", 4, "ue8m0", marks=pytest.mark.not_assembled("it came with PTX 9.1")),
        ("mxf4nvf4", "e2m1", "e2m1", 4, "ue4m3"),
    ],
)
@pytest.mark.parametrize("at", [((0, 0), (0, 0)), ((2, 1), (2, 3)), ((1, 0), (3, 2))])
def test_block_scaled_mma(kind, kind_a, kind_b, vector, form, at):
    (byte_a, thread_a), (byte_b, thread_b) = at
    byte_a, byte_b = byte_a // vector * vector % 4, byte_b // vector * vector % 4
    k = 32 if kind == "mxf8f6f4" else 64
    a, b = codes(kind_a, (16, k)), codes(kind_b, (k, 8))
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    scale_a, scale_b = codes(form, (16, vector)), codes(form, (8, vector))
    if k == 64:
        packed = a[:, ::2] | a[:, 1::2] << 4, b[::2] | b[1::2] << 4
    else:
        packed = in_a_byte(kind_a, a), in_a_byte(kind_b, b)
    groups = [fragment(packed[0], place_a, 32, 4), fragment(packed[1], place_b, 32, 2)]
    extra = [scale_registers(scale_a, byte_a, thread_a, True), scale_registers(scale_b, byte_b, thread_b, False)]
    tail = f", {{0}}, {{{{{byte_a}, {thread_a}}}}}, {{1}}, {{{{{byte_b}, {thread_b}}}}}"
    text = f"mma.sync.aligned.m16n8k{k}.row.col.kind::{kind}.block_scale.scale_vec::{vector}X.f32.{kind_a}.{kind_b}.f32.{form}"
    full_a = values(kind_a, a) * np.repeat(values(form, scale_a), k // vector, axis=1)
    full_b = values(kind_b, b) * np.repeat(values(form, scale_b), k // vector, axis=1).T
    np.testing.assert_array_equal(run_mma(text, groups, c, tail, extra), (full_a @ full_b + c).astype(np.float32))


def test_unit_scales_change_nothing_and_a_nan_scale_gives_nan():
    a, b = codes("e4m3", (16, 32)), codes("e4m3", (32, 8))
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    groups = [fragment(a, place_a, 32, 4), fragment(b, place_b, 32, 2)]
    plain = run_mma("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", groups, c)
    text = "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0"
    ones = np.full(32, 0x7F, np.uint32)
    tail = ", {0}, {{0, 0}}, {1}, {{0, 0}}"
    np.testing.assert_array_equal(run_mma(text, groups, c, tail, [ones, ones]), plain)
    broken = ones.copy()
    broken[4 * 3 + 1] = 0xFF  # row 11
    got = run_mma(text, groups, c, tail, [broken, ones])
    assert np.isnan(got[11]).all()
    assert np.isfinite(np.delete(got, 11, axis=0)).all()


SELECTORS = ", %r0, {0, 0}, %r0, {0, 0}"


@pytest.mark.parametrize(
    ("text", "tail", "message"),
    [
        ("kind::mxf8f6f4.f32.e4m3.e4m3.f32", "", "have block scales, others do not"),
        ("kind::mxf8f6f4.block_scale.scale_vec::2X.f32.e4m3.e4m3.f32.ue8m0", SELECTORS, "no scales .scale_vec::2X"),
        ("kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e4m3.f32.ue4m3", SELECTORS, "1X.ue4m3"),
        ("kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0", "", "eight operands"),
        ("kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0", ", %r0, {0}, %r0, {0, 0}", "a selector {byte-id, thread-id}"),
    ],
)
def test_forms_that_do_not_exist(text, tail, message):
    registers = "{%f0, %f1, %f2, %f3}, {%r0, %r0, %r0, %r0}, {%r0, %r0}, {%f0, %f1, %f2, %f3}"
    body = f".reg .b32 %r<1>; .reg .f32 %f<4>; mma.sync.aligned.m16n8k32.row.col.{text} {registers}{tail}; ret;"
    with pytest.raises(PTXError, match=message):
        load(entry(body, "", "sm_120a"))


@pytest.mark.not_assembled("a selector out of range")
def test_selectors_out_of_range():
    a, b, c = codes("e4m3", (16, 32)), codes("e4m3", (32, 8)), np.zeros((16, 8), np.float32)
    groups = [fragment(a, place_a, 32, 4), fragment(b, place_b, 32, 2)]
    text = "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0"
    ones = np.full(32, 0x7F, np.uint32)
    with pytest.raises(KernelFault, match=r"scale selector \{0, 2\}: byte-id is a multiple of 1 below 4, thread-id is below 2"):
        run_mma(text, groups, c, ", {0}, {{0, 2}}, {1}, {{0, 0}}", [ones, ones])


# Triton's dot_scaled.


@pytest.fixture(scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


MXF8 = "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.{}.{}.f32.ue8m0"
MXF4 = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::{}X.f32.e2m1.e2m1.f32.{}"
DOT_SCALED = [
    (120, "e4m3", "e4m3", 32, 4, MXF8.format("e4m3", "e4m3")),
    (120, "e5m2", "e4m3", 32, 8, MXF8.format("e5m2", "e4m3")),
    (120, "e2m1", "e2m1", 32, 4, MXF4.format(2, "ue8m0")),
    (120, "e2m1", "e2m1", 16, 4, MXF4.format(4, "ue4m3")),
    (100, "e4m3", "e4m3", 32, 4, "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale.block32"),
    (100, "e5m2", "e4m3", 32, 8, "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale.block32"),
    (100, "e4m3", "e2m1", 32, 4, "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale.block32"),
    (100, "e2m1", "e2m1", 32, 4, "tcgen05.mma.cta_group::1.kind::mxf4.block_scale.block32"),
    (100, "e2m1", "e2m1", 16, 4, "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16"),
]


@pytest.mark.usefixtures("_triton_cache")
@every_policy
@pytest.mark.parametrize(("target", "kind_a", "kind_b", "vector", "warps", "emitted"), DOT_SCALED)
def test_dot_scaled(target, kind_a, kind_b, vector, warps, emitted, policy):
    pytest.importorskip("triton")
    torch = pytest.importorskip("torch")
    from .kernels import triton_kernels as kernels
    from .triton_launch import bind_triton

    M, N, K = 128, 128, 256
    form = "ue8m0" if vector == 32 else "ue4m3"
    raw = [codes(kind, (n, K)) for kind, n in ((kind_a, M), (kind_b, N))]
    scales = [codes(form, (n, K // vector)) for n in (M, N)]
    types = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1": torch.uint8}
    operands = [
        torch.from_numpy(x[:, ::2] | x[:, 1::2] << 4 if kind == "e2m1" else x).view(types[kind])
        for kind, x in ((kind_a, raw[0]), (kind_b, raw[1]))
    ]
    factors = [torch.from_numpy(s).view(torch.uint8 if form == "ue8m0" else torch.float8_e4m3fn) for s in scales]
    out = torch.zeros((M, N))
    args = (operands[0], factors[0], operands[1], factors[1], Buffer(out, "out", initialised=False), N, K)
    options = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 128, "VECTOR": vector, "num_warps": warps}
    options |= {"A_FORMAT": kind_a, "B_FORMAT": kind_b}
    bound = bind_triton(kernels.scaled_matmul, args, options, target=target)
    assert emitted in bound.kernel.ptx
    bound.launch((1, 1), policy=policy)
    a, b = (
        values(kind, x) * np.repeat(values(form, s), vector, axis=1)
        for kind, x, s in zip((kind_a, kind_b), raw, scales, strict=True)
    )
    want = a @ b.T
    np.testing.assert_allclose(out.numpy(), want, rtol=0, atol=1e-6 * np.abs(want).max())
