"""Atomics: totals do not depend on the order, old values form a permutation of it."""

from __future__ import annotations

import numpy as np
import pytest

from .api import KernelFault, Policy
from .testing import run_text

HEAD = """.reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<8>; .reg .pred %p<2>; mov.u32 %r0, %tid.x; ld.param.u64 %rd0, [x];
ld.param.u64 %rd1, [y]; mov.u32 %r6, %ctaid.x; mad.lo.u32 %r7, %r6, 128, %r0; mad.wide.u32 %rd2, %r7, 4, %rd1;"""
PARAMETERS = ".param .u64 x, .param .u64 y"


def run(body: str, x: np.ndarray, **how) -> np.ndarray:
    y = np.zeros(256, np.uint32)
    run_text(f"{HEAD} {body} ret;", PARAMETERS, [x, y], block=128, grid=2, **how)
    return y


@pytest.mark.parametrize("policy", [Policy(), Policy("random", seed=5)])
def test_add_returns_the_old_value(policy):
    x = np.zeros(1, np.uint32)
    old = run("atom.global.add.u32 %r1, [%rd0], 1; st.global.u32 [%rd2], %r1;", x, policy=policy)
    assert x[0] == 256
    np.testing.assert_array_equal(np.sort(old), np.arange(256))


@pytest.mark.parametrize(
    ("operation", "want"),
    [
        ("max.s32", 255),
        ("min.u32", 0),
        ("or.b32", 255),
        ("and.b32", 0),
        ("xor.b32", 0),
        ("inc.u32", 256 % 257),
        ("exch.b32", None),
    ],
)
def test_reductions(operation, want):
    x = np.zeros(1, np.uint32)
    operand = "256" if "inc" in operation else "%r7"
    if "exch" in operation:
        run(f"atom.global.{operation} %r1, [%rd0], {operand};", x)
        assert x[0] < 256
        return
    run(f"red.global.gpu.relaxed.{operation} [%rd0], {operand};", x)
    assert x[0] == want


def test_compare_and_swap_loop():
    """A float sum by compare and swap, the way it is written without atom.add.f32."""
    x = np.zeros(1, np.uint32)
    body = """ld.global.u32 %r1, [%rd0];
    LOOP: mov.b32 %f0, %r1; add.f32 %f1, %f0, 0f3F800000; mov.b32 %r2, %f1; atom.global.cas.b32 %r3, [%rd0], %r1, %r2;
    setp.ne.u32 %p0, %r3, %r1; mov.u32 %r1, %r3; @%p0 bra LOOP;"""
    run(body, x)
    assert x.view(np.float32)[0] == 256.0


def test_float_and_packed_adds():
    x = np.zeros(4, np.float32)
    run("red.global.add.f32 [%rd0], 0f3F000000;", x)
    assert x[0] == 128.0
    half = np.zeros(2, np.float16)
    run("mov.u32 %r1, 0x3C003800; red.global.add.noftz.f16x2 [%rd0], %r1;", half)
    np.testing.assert_array_equal(half, [128.0, 256.0])
    run("mov.f32 %f0, 0f3F800000; red.global.add.v4.f32 [%rd0], {%f0, %f0, %f0, %f0};", x)
    np.testing.assert_array_equal(x, [384.0, 256.0, 256.0, 256.0])


def test_shared_atomics_do_not_race_with_each_other():
    body = """.shared .align 4 .b8 s[4]; mov.u32 %r1, s; setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.u32 [%r1], 0; bar.sync 0;
    red.shared.add.u32 [%r1], 1; bar.sync 0; ld.shared.u32 %r2, [%r1]; st.global.u32 [%rd2], %r2;"""
    assert (run(body, np.zeros(1, np.uint32)) == 128).all()
    with pytest.raises(KernelFault, match="race"):
        run(body.replace("bar.sync 0; ld", "ld"), np.zeros(1, np.uint32))


def test_atomic_outside_of_the_array():
    with pytest.raises(KernelFault, match=r"out-of-bounds: global atomic of 4 bytes at 0x.*0 bytes past the end of"):
        run("red.global.add.u32 [%rd0+4], 1;", np.zeros(1, np.uint32))
