"""Branches, loops, calls, tables, printf, traps, and how diverged lanes meet again."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Policy, PTXError, launch, load
from .testing import entry, run_text

REGISTERS = ".reg .b32 %r<12>; .reg .pred %p<4>; .reg .b64 %rd<6>; mov.u32 %r0, %tid.x;"
STORE = "ld.param.u64 %rd0, [y]; mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r1; ret;"


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_loops_of_different_length(policy):
    body = f"""{REGISTERS} mov.u32 %r1, 0; mov.u32 %r2, 0;
    LOOP: setp.ge.u32 %p0, %r2, %r0; @%p0 bra DONE; add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1; bra LOOP;
    DONE: {STORE}"""
    out = np.zeros(96, np.uint32)
    run_text(body, ".param .u64 y", [out], block=96, policy=policy)
    np.testing.assert_array_equal(out, [t * (t - 1) // 2 for t in range(96)])


def test_diverged_lanes_meet_at_the_earliest_point():
    """The tail after an if is executed once for the whole warp."""
    body = f"""{REGISTERS} mov.u32 %r1, 1; setp.lt.u32 %p0, %r0, 7; @!%p0 bra SKIP; add.u32 %r1, %r1, 1;
    SKIP: add.u32 %r1, %r1, 10; {STORE}"""
    out = np.zeros(32, np.uint32)
    result = run_text(body, ".param .u64 y", [out])
    np.testing.assert_array_equal(out, np.where(np.arange(32) < 7, 12, 11))
    assert result.counters.mix()["add.u32"] == 2


def test_branch_table():
    body = f"""{REGISTERS} and.b32 %r2, %r0, 3; mov.u32 %r1, 0;
    TABLE: .branchtargets A, B, A, C;
    brx.idx %r2, TABLE;
    A: add.u32 %r1, %r1, 1;
    B: add.u32 %r1, %r1, 10;
    C: add.u32 %r1, %r1, 100; {STORE}"""
    out = np.zeros(32, np.uint32)
    run_text(body, ".param .u64 y", [out])
    np.testing.assert_array_equal(out, np.tile([111, 110, 111, 100], 8))


def test_nested_scopes_may_repeat_names():
    """Inline assembly declares the same registers and labels again and again."""
    piece = "{ .reg .pred %p0; .reg .b32 t; mov.u32 t, %r0; setp.eq.u32 %p0, t, 3; @%p0 bra LAB; add.u32 %r1, %r1, 1; LAB: }"
    out = np.zeros(32, np.uint32)
    run_text(f"{REGISTERS} mov.u32 %r1, 0; {piece} {piece} {STORE}", ".param .u64 y", [out])
    np.testing.assert_array_equal(out, np.where(np.arange(32) == 3, 0, 2))


def test_calls_return_values_for_diverged_callers():
    header = """.func (.param .b32 result) twice(.param .b32 x) { .reg .b32 %r<4>; .reg .pred %p; ld.param.b32 %r1, [x];
    setp.gt.s32 %p, %r1, 20; @%p bra BIG; add.s32 %r1, %r1, %r1; BIG: st.param.b32 [result], %r1; ret; }"""
    body = f"""{REGISTERS} mov.u32 %r1, %r0; and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0; @%p0 bra SKIP;
    {{ .param .b32 param0; .param .b32 retval0; st.param.b32 [param0+0], %r0; call.uni (retval0), twice, (param0);
    ld.param.b32 %r1, [retval0+0]; }}
    SKIP: {STORE}"""
    out = np.zeros(32, np.uint32)
    run_text(body, ".param .u64 y", [out], header=header)
    want = [t if t % 2 == 0 or t > 20 else 2 * t for t in range(32)]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("policy", [Policy(), Policy("random", seed=1)])
def test_spin_on_memory_ends(policy):
    """CTA 1 spins until CTA 0 has written; warp 1 of a CTA spins on warp 0."""
    body = f"""{REGISTERS} mov.u32 %r5, %ctaid.x; ld.param.u64 %rd0, [y]; setp.eq.u32 %p0, %r5, 0; @%p0 bra WRITE;
    SPIN: ld.volatile.global.u32 %r1, [%rd0]; setp.eq.u32 %p1, %r1, 0; @%p1 bra SPIN; ret;
    WRITE: st.global.u32 [%rd0], 1; ret;"""
    out = np.zeros(1, np.uint32)
    run_text(body, ".param .u64 y", [out], grid=2, policy=policy)
    assert out[0] == 1


def test_endless_loops_are_cut_off():
    with pytest.raises(KernelFault, match="limit: more than 20000 steps"):
        run_text("L: bra L;", "", [], largest_steps=20000)


def test_trap_and_assert_are_findings():
    with pytest.raises(KernelFault, match="assertion: the kernel executed trap"):
        run_text("trap;", "", [])


def test_printf():
    header = """.extern .func (.param .b32 func_retval0) vprintf (.param .b64 a, .param .b64 b);
    .global .align 1 .b8 text[12] = {110,61,37,100,32,120,61,37,46,49,102,0};"""
    body = f"""{REGISTERS} .local .align 8 .b8 d[16]; mov.u64 %rd1, d; st.local.u32 [%rd1], 42;
    st.local.f64 [%rd1+8], 0d3FF8000000000000;
    cvta.local.u64 %rd1, %rd1; mov.u64 %rd2, text; {{ .param .b64 p0; .param .b64 p1; .param .b32 retval0;
    st.param.b64 [p0], %rd2; st.param.b64 [p1], %rd1;
    call.uni (retval0), vprintf, (p0, p1); ld.param.b32 %r3, [retval0]; }} ret;"""
    assert run_text(body, "", [], block=1, header=header).printed == ["n=42 x=1.5"]


def test_unknown_instructions_and_modifiers_fail_at_load():
    for text, message in [
        ("frobnicate.b32 %r0, %r1;", r"line 8: frobnicate\.b32 %r0, %r1: unknown instruction frobnicate"),
        ("add.wiggle.s32 %r0, %r1, %r2;", r"unknown modifier \.wiggle of add"),
        ("mov.u32 %q9, 1;", "unknown register %q9"),
        ("bra NOWHERE;", "NOWHERE is not declared"),
        ("add.s64 %r0, %r1, %r2;", "too narrow"),
        ("cp.async.bulk.prefetch.tensor.1d.L2.global.tile [%r0+32, {%r1}];", "an address with coordinates takes no offset"),
    ]:
        with pytest.raises(PTXError, match=message):
            load(entry(f".reg .b32 %r<4>;\n{text}", ""))


def test_source_lines_are_named():
    text = (
        entry(".loc 1 42 3\n.reg .b32 %r<2>;\nmov.u32 %r1, 0;\nld.shared.u32 %r0, [%r1];\nret;", "") + '\n.file 1 "kernel.cu"\n'
    )
    with pytest.raises(KernelFault, match=r"kernel\.cu:42"):
        launch(load(text)["kernel"], 1, 32, [])
