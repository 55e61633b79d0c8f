"""CTA barriers: counts, names, reductions, exits, deadlock."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Policy
from .testing import run_text

HEADER = ".reg .b32 %r<8>; .reg .pred %p<4>; .reg .b64 %rd<4>; mov.u32 %r0, %tid.x; shr.u32 %r7, %r0, 5;"
OUT = "ld.param.u64 %rd0, [out]; mad.wide.u32 %rd1, %r0, 4, %rd0;"


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_exchange_between_warps(policy):
    body = f"""{HEADER} {OUT} .shared .align 4 .b8 s[512];
    shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0;
    bar.sync 0; xor.b32 %r4, %r1, 256; add.u32 %r3, %r2, %r4; ld.shared.u32 %r5, [%r3]; st.global.u32 [%rd1], %r5; ret;"""
    out = np.zeros(128, np.uint32)
    run_text(body, ".param .u64 out", [out], block=128, policy=policy)
    np.testing.assert_array_equal(out, np.arange(128) ^ 64)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_named_barrier_of_two_warps_and_arrive(policy):
    """Warps 0 and 1 produce and arrive; warp 2 waits for 96 threads; warp 3 leaves."""
    body = f"""{HEADER} {OUT} .shared .align 4 .b8 s[256];
    setp.eq.u32 %p0, %r7, 3; @%p0 ret;
    shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; setp.eq.u32 %p1, %r7, 2; @%p1 bra CONSUME;
    st.shared.u32 [%r3], %r0; bar.arrive 1, 96; ret;
    CONSUME: bar.sync 1, 96; and.b32 %r4, %r1, 127; add.u32 %r3, %r2, %r4; ld.shared.u32 %r5, [%r3]; ld.shared.u32 %r6, [%r3+128];
    add.u32 %r5, %r5, %r6; st.global.u32 [%rd1], %r5; ret;"""
    out = np.zeros(128, np.uint32)
    run_text(body, ".param .u64 out", [out], block=128, policy=policy)
    np.testing.assert_array_equal(out[64:96], 2 * np.arange(32) + 32)


def test_reductions():
    body = f"""{HEADER} {OUT} setp.eq.u32 %p0, %r0, 77; bar.red.or.pred %p1, 0, %p0; bar.red.and.pred %p2, 0, %p0;
    bar.red.popc.u32 %r3, 0, %p0; selp.u32 %r1, 1, 0, %p1; selp.u32 %r2, 2, 0, %p2; add.u32 %r1, %r1, %r2;
    mad.lo.u32 %r1, %r3, 4, %r1;
    st.global.u32 [%rd1], %r1; ret;"""
    out = np.zeros(256, np.uint32)
    run_text(body, ".param .u64 out", [out], block=128, grid=1)
    assert (out[:128] == 5).all()


def test_exited_threads_are_not_waited_for():
    body = f"{HEADER} setp.ge.u32 %p0, %r0, 40; @%p0 ret; barrier.sync 0; ret;"
    run_text(body, "", [], block=64)


def test_partial_block():
    """100 threads: the fourth warp counts as whole in an aligned barrier."""
    run_text(f"{HEADER} bar.sync 0; bar.sync 1, 128; ret;", "", [], block=100)


def test_divergent_barrier_deadlocks_with_an_explanation():
    body = f"{HEADER} setp.lt.u32 %p0, %r0, 64; @%p0 bar.sync 1, 128; ret;"
    with pytest.raises(KernelFault, match=r"deadlock: .*64 threads wait for barrier 1 at PTX line \d+"):
        run_text(body, "", [], block=128)


def test_part_of_a_warp_at_an_aligned_barrier():
    body = f"{HEADER} setp.lt.u32 %p0, %r0, 16; @%p0 bar.sync 0; @!%p0 bar.sync 0; ret;"
    with pytest.raises(KernelFault, match="aligned barrier executed by part of a warp"):
        run_text(body, "", [])


def test_different_counts_at_one_barrier():
    body = f"{HEADER} setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 1, 64; @!%p0 bar.sync 1, 96; ret;"
    with pytest.raises(KernelFault, match="different thread counts"):
        run_text(body, "", [], block=64, policy=Policy("random", seed=1))


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_a_warp_is_ordered_with_itself(policy):
    """Writing, reading and writing again after a barrier, without a further one, in a place of one's own."""
    body = f"""{HEADER} {OUT} .shared .align 4 .b8 s[512]; shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1;
    bar.sync 0; st.shared.u32 [%r3], %r0; ld.shared.u32 %r5, [%r3]; add.u32 %r5, %r5, 1; st.shared.u32 [%r3], %r5;
    ld.shared.u32 %r6, [%r3]; st.global.u32 [%rd1], %r6; ret;"""
    out = np.zeros(128, np.uint32)
    run_text(body, ".param .u64 out", [out], block=128, policy=policy)
    np.testing.assert_array_equal(out, np.arange(128) + 1)
