"""Races between the warps of a CTA in global memory: what orders them, and what does not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault
from .testing import run_text

every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
THREADS = 96
HEAD = """.reg .b32 %r<8>; .reg .b64 %x, %mine, %other; .reg .pred %p, %w<3>; ld.param.u64 %x, [x]; mov.u32 %r0, %tid.x;
    shr.u32 %r1, %r0, 5; setp.eq.u32 %w0, %r1, 0; setp.eq.u32 %w1, %r1, 1; setp.eq.u32 %w2, %r1, 2;
    mul.wide.u32 %mine, %r0, 4; add.u64 %mine, %x, %mine; add.u32 %r2, %r0, 32; rem.u32 %r2, %r2, 96; mul.wide.u32 %other, %r2, 4;
    add.u64 %other, %x, %other; add.u32 %r3, %r0, 1;
    """
WRITE = "st.global.u32 [%mine], %r3;"
READ_OTHER = "ld.global.u32 %r4, [%other];"


def run(body: str, policy, **how) -> np.ndarray:
    x = np.zeros(THREADS + 8, np.uint32)
    run_text(HEAD + body + "ret;", ".param .u64 x", [x], block=THREADS, policy=policy, **how)
    return x


def fault(body: str, policy, **how) -> str:
    with pytest.raises(KernelFault) as caught:
        run(body, policy, **how)
    return str(caught.value)


@every_policy
def test_a_barrier_orders(policy):
    run(f"{WRITE} bar.sync 0; {READ_OTHER} bar.sync 0; st.global.u32 [%mine], %r4;", policy)
    run(f"{READ_OTHER} bar.sync 0; {WRITE}", policy)


@every_policy
def test_read_after_write(policy):
    text = fault(f"{WRITE} {READ_OTHER} bar.sync 0; st.global.u32 [%other], %r4;", policy)
    assert "race: reads 4 bytes at byte" in text or "race: writes 4 bytes at byte" in text
    assert "no barrier orders the two warps" in text


@every_policy
def test_one_way_of_the_two(policy):
    text = fault(f"@%w0 {WRITE} bar.sync 1, 64; @%w2 ld.global.u32 %r4, [%x];".replace("bar.sync 1", "@!%w2 bar.sync 1"), policy)
    assert "of the CTA" in text
    assert "no barrier orders the two warps" in text
    run(f"@%w0 {WRITE} @!%w2 bar.sync 1, 64; @%w1 ld.global.u32 %r4, [%x];", policy)


@every_policy
def test_write_after_read(policy):
    text = fault(f"@%w1 ld.global.u32 %r4, [%x]; @%w0 {WRITE}", policy)
    assert "race: overwrites 4 bytes at byte 0 of argument 0 (x)" in text or "race: reads 4 bytes at byte 0" in text
    assert "warp 1 of the CTA reads" in text or "warp 0 of the CTA writes at PTX line" in text


@every_policy
def test_two_warps_write_one_place(policy):
    text = fault("st.global.u32 [%x], %r1;", policy)
    assert "race: writes 4 bytes at byte 0 of argument 0 (x)" in text
    assert "no barrier orders the two warps" in text
    run("st.global.u32 [%x], 5;", policy)  # equal values are no race


@every_policy
def test_bytes_side_by_side_are_no_race(policy):
    run(f"cvt.u64.u32 %mine, %r0; add.u64 %mine, %x, %mine; st.global.u8 [%mine], %r3; {'ld.global.u8 %r4, [%mine];'}", policy)


FLAG = "@%w0 {write} bar.warp.sync -1; membar.gl; setp.eq.u32 %p, %r0, 0; @%p st.volatile.global.u32 [%x+384], 1;"
SPIN = "@!%w1 bra GO; AGAIN: ld.volatile.global.u32 %r5, [%x+384]; setp.eq.u32 %p, %r5, 0; @%p bra AGAIN; GO:"


@every_policy
def test_a_flag_orders_those_who_wait_for_it(policy):
    flag = FLAG.format(write=WRITE)
    assert run(f"{flag} {SPIN} @%w1 ld.global.u32 %r4, [%x]; @%w1 st.global.u32 [%mine], %r4;", policy)[32] == 1
    run(f"{flag} {SPIN} @!%w0 bar.sync 1, 64; @%w2 ld.global.u32 %r4, [%x];", policy)  # and those who wait for them
    text = fault(f"{flag} {SPIN} @%w2 ld.global.u32 %r4, [%x];", policy)
    assert "no barrier orders the two warps" in text


@every_policy
def test_another_cta_is_named_as_such(policy):
    text = fault("mov.u32 %r6, %ctaid.x; @%w0 st.global.u32 [%x], %r6;", policy, grid=2)
    assert "nothing orders the two CTAs" in text


LOCKED = """
    .reg .b32 %r<4>; .reg .b64 %x; .reg .pred %p; ld.param.u64 %x, [x];
    TAKE: atom.global.cas.b32 %r0, [%x], 0, 1; setp.ne.u32 %p, %r0, 0; @%p bra TAKE;
    ld.global.u32 %r1, [%x+4]; add.u32 %r1, %r1, 1; st.global.u32 [%x+4], %r1;
    membar.gl; atom.global.exch.b32 %r2, [%x], 0; ret;
    """


@every_policy
def test_a_lock_orders_many_ctas(policy):
    """Each CTA reads and overwrites what others have read: all of them are ordered by the lock."""
    x = np.zeros(2, np.uint32)
    run_text(LOCKED, ".param .u64 x", [x], grid=5, block=1, policy=policy)
    assert list(x) == [0, 5]
    unlocked = LOCKED.replace("TAKE: atom.global.cas.b32 %r0, [%x], 0, 1; setp.ne.u32 %p, %r0, 0; @%p bra TAKE;", "")
    with pytest.raises(KernelFault, match="nothing orders the two CTAs"):
        run_text(unlocked, ".param .u64 x", [x], grid=5, block=1, policy=policy)
    reader = """.reg .b32 %r<3>; .reg .b64 %x; .reg .pred %p; ld.param.u64 %x, [x]; mov.u32 %r0, %ctaid.x; setp.eq.u32 %p, %r0, 4;
        ld.global.u32 %r1, [%x]; @%p st.global.u32 [%x], 7; ret;"""
    with pytest.raises(KernelFault, match=r"overwrites .*, which other CTAs read|reads .*, which CTA .* writes"):
        run_text(reader, ".param .u64 x", [np.zeros(1, np.uint32)], grid=5, block=1, policy=policy)


@every_policy
def test_races_in_a_grid_too_large_to_run(policy):
    """Memory is needed for the CTAs that run only, and reports name them by their place in the grid."""
    body = ".reg .b32 %r; .reg .b64 %x; ld.param.u64 %x, [x]; mov.u32 %r, %ctaid.x; st.global.u32 [%x], %r; ret;"
    how = {"grid": 2**30, "block": 1, "policy": policy, "ctas": [0, 2**30 - 1]}
    tracemalloc.start()
    try:
        with pytest.raises(KernelFault, match=r"CTA \((0|1073741823), 0, 0\) writes"):
            run_text(body, ".param .u64 x", [np.full(1, 5, np.uint32)], **how)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()
