"""mbarriers: phases, counts, bytes, order, and every misuse."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Policy
from .testing import run_text

HEAD = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<6>; .shared .align 8 .b8 bar[64]; .shared .align 16 .b8 tile[4096];
mov.u32 %r0, %tid.x; mov.u32 %r1, bar; mov.u32 %r2, tile; ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y];
mul.wide.u32 %rd2, %r0, 4;
add.s64 %rd1, %rd1, %rd2; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3; setp.eq.u32 %p0, %r0, 0; shr.u32 %r5, %r0, 5;
setp.eq.u32 %p1, %r5, 0;"""
WAIT = "W{0}: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], {0}; @!%p2 bra W{0};"
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


def init(count: int, sync: bool = True) -> str:
    return f"@%p0 mbarrier.init.shared::cta.b64 [%r1], {count}; " + ("bar.sync 0;" if sync else "")


def run(body: str, block: int = 64, policy: Policy | None = None, x: np.ndarray | None = None) -> np.ndarray:
    y = np.zeros(block, np.uint32)
    x = np.arange(block * 4, dtype=np.uint32) if x is None else x
    run_text(f"{HEAD} {body} ret;", ".param .u64 x, .param .u64 y", [x, y], block=block, policy=policy, target="sm_90a")
    return y


def fault(body: str, **how) -> str:
    with pytest.raises(KernelFault) as caught:
        run(body, **how)
    return str(caught.value)


PRODUCE = "@%p1 st.shared.u32 [%r4], %r0; @%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];"
CONSUME = "@%p1 bra END; xor.b32 %r6, %r3, 128; add.u32 %r6, %r2, %r6; ld.shared.u32 %r7, [%r6]; st.global.u32 [%rd1], %r7; END:"


@every_policy
def test_producer_and_consumer_warps(policy):
    y = run(f"{init(32)} {PRODUCE} {WAIT.format(0)} {CONSUME}", policy=policy)
    np.testing.assert_array_equal(y, np.r_[np.zeros(32), np.arange(32)])


@every_policy
def test_reading_without_waiting_is_a_race(policy):
    assert "tile" in fault(f"{init(32)} {PRODUCE} {CONSUME}", policy=policy)


@every_policy
def test_relaxed_arrivals_order_nothing(policy):
    produce = PRODUCE.replace("arrive.", "arrive.relaxed.cluster.")
    assert "race: reads 4 bytes" in fault(f"{init(32)} {produce} {WAIT.format(0)} {CONSUME}", policy=policy)


@every_policy
def test_relaxed_waits_order_nothing(policy):
    relaxed = WAIT.format(0).replace("parity.", "parity.relaxed.cluster.")
    assert "race: reads 4 bytes" in fault(f"{init(32)} {PRODUCE} {relaxed} {CONSUME}", policy=policy)


@every_policy
def test_initialisation_must_be_ordered_before_use(policy):
    text = fault(f"{init(64, sync=False)} mbarrier.arrive.shared::cta.b64 _, [%r1]; {WAIT.format(0)}", policy=policy)
    assert "uses the mbarrier at 4 bytes" in text or "uses the mbarrier at 8 bytes" in text or "was not initialised" in text


def test_parity_of_phases():
    """A wait for parity 1 passes at once on a fresh barrier; states name phases."""
    body = f"""{init(1)} {WAIT.format(1)} @%p0 mbarrier.arrive.shared::cta.b64 %rd5, [%r1]; {WAIT.format(0)}
    @%p0 mbarrier.test_wait.shared::cta.b64 %p3, [%r1], %rd5; mbarrier.test_wait.parity.shared::cta.b64 %p4, [%r1], 1;
    selp.u32 %r7, 1, 0, %p3; selp.u32 %r8, 2, 0, %p4; add.u32 %r7, %r7, %r8; st.global.u32 [%rd1], %r7;"""
    assert run(body)[0] == 1


@every_policy
def test_bytes_hold_a_phase_open(policy):
    body = f"""{init(1)} @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 96; setp.lt.u32 %p3, %r0, 3;
    @%p3 mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r1], 32; {WAIT.format(0)} st.global.u32 [%rd1], 1;"""
    assert (run(body, policy=policy) == 1).all()


def test_missing_bytes_and_arrivals_are_named_in_the_deadlock():
    body = f"{init(2)} @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 128; {WAIT.format(0)}"
    text = fault(body)
    assert "deadlock" in text
    assert (
        "64 threads wait for phase 0 of the mbarrier (8 bytes at byte 0 of shared bar (64 bytes)), which lacks 1 arrivals and 128"
        in text
    )


def test_misuse():
    assert "arrivals at an mbarrier that expects" in fault(f"{init(32)} mbarrier.arrive.shared::cta.b64 _, [%r1], 33;", block=32)
    assert "not initialised: 8 bytes at byte 0 of shared bar" in fault("mbarrier.arrive.shared::cta.b64 _, [%r1];")
    assert "cannot expect 0 arrivals" in fault(init(0))
    assert "misaligned" in fault("add.u32 %r1, %r1, 4; " + init(1))
    body = f"{init(1)} {WAIT.format(1)} bar.sync 0; @%p0 mbarrier.inval.shared::cta.b64 [%r1]; bar.sync 0; {WAIT.format(0)}"
    assert "waited for that was not initialised" in fault(body)


@every_policy
def test_waits_come_before_invalidation(policy):
    """Warp 1 may still be waiting when warp 0, which has waited itself, invalidates."""
    body = (
        f"{init(1)} @%p0 mbarrier.arrive.shared::cta.b64 _, [%r1]; {WAIT.format(0)} %s @%p0 mbarrier.inval.shared::cta.b64 [%r1];"
    )
    run(body.replace("%s", "bar.sync 0;"), policy=policy)
    text = fault(body.replace("%s", ""), policy=policy)
    assert "warp 1 may still wait for it at PTX line" in text or "waited for that was not initialised" in text


@every_policy
@pytest.mark.parametrize("noinc", ["", ".noinc"])
def test_cp_async_arrives_when_its_copies_are_complete(policy, noinc):
    """Warp 0 copies; warp 1 learns of it from the mbarrier alone."""
    count = 32 if noinc else 1
    body = f"""{init(count)} shl.b32 %r8, %r0, 4; add.u32 %r9, %r2, %r8; cvt.u64.u32 %rd4, %r8; add.s64 %rd0, %rd0, %rd4;
    @%p1 cp.async.cg.shared.global [%r9], [%rd0], 16; @%p1 cp.async.mbarrier.arrive{noinc}.shared::cta.b64 [%r1];
    {"" if noinc else "@%p0 mbarrier.arrive.shared::cta.b64 _, [%r1];"} {WAIT.format(0)}
    and.b32 %r10, %r0, 31; shl.b32 %r10, %r10, 4; add.u32 %r10, %r2, %r10; ld.shared.u32 %r7, [%r10+4];
    st.global.u32 [%rd1], %r7;"""
    np.testing.assert_array_equal(run(body, policy=policy), 4 * (np.arange(64) % 32) + 1)
