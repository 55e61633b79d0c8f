"""cp.async: what it copies, and which missing waits are found."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Policy
from .testing import run_text

HEAD = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 128 .b8 tile[4096];
mov.u32 %r0, %tid.x; mov.u32 %r1, tile; ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; mul.wide.u32 %rd2, %r0, 16;
add.s64 %rd0, %rd0, %rd2;
add.s64 %rd1, %rd1, %rd2; shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2; xor.b32 %r9, %r0, 32; shl.b32 %r3, %r9, 4;
add.u32 %r3, %r1, %r3;"""
COPY = "cp.async.cg.shared.global [%r2], [%rd0], 16; cp.async.commit_group;"
READ = "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3]; st.global.v4.u32 [%rd1], {%r4, %r5, %r6, %r7}; ret;"
PARAMETERS = ".param .u64 x, .param .u64 y"


def arrays() -> list[np.ndarray]:
    return [np.random.default_rng(0).integers(0, 2**32, (64, 4), dtype=np.uint32), np.zeros((64, 4), np.uint32)]


def fault(body: str, policy: Policy) -> str:
    with pytest.raises(KernelFault) as caught:
        run_text(HEAD + body, PARAMETERS, arrays(), block=64, policy=policy)
    return str(caught.value)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_copy_wait_barrier_read(policy):
    x, y = arrays()
    run_text(f"{HEAD} {COPY} cp.async.wait_group 0; bar.sync 0; {READ}", PARAMETERS, [x, y], block=64, policy=policy)
    np.testing.assert_array_equal(y, x[np.arange(64) ^ 32])


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_bytes_beyond_the_source_size_are_zero(policy):
    x, y = arrays()
    copy = "and.b32 %r8, %r0, 7; shl.b32 %r8, %r8, 1; cp.async.cg.shared.global [%r2], [%rd0], 16, %r8;"
    run_text(f"{HEAD} {copy} cp.async.wait_all; bar.sync 0; {READ}", PARAMETERS, [x, y], block=64, policy=policy)
    for lane in range(64):
        source = (lane ^ 32) % 8 * 2
        want = x.view(np.uint8).reshape(64, 16)[lane ^ 32].copy()
        want[source:] = 0
        np.testing.assert_array_equal(y.view(np.uint8).reshape(64, 16)[lane], want)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_missing_wait(policy):
    assert "while an asynchronous copy may still be writing it (no wait came before)" in fault(
        f"{COPY} bar.sync 0; {READ}", policy
    )


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_wait_that_leaves_the_group_pending(policy):
    assert "may still be writing it" in fault(f"{COPY} cp.async.wait_group 1; bar.sync 0; {READ}", policy)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_missing_commit(policy):
    copy = COPY.replace("cp.async.commit_group;", "")
    assert "may still be writing it" in fault(f"{copy} cp.async.wait_group 0; bar.sync 0; {READ}", policy)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_missing_barrier_after_the_wait(policy):
    text = fault(f"{COPY} cp.async.wait_group 0; {READ}", policy)
    assert "race: reads" in text or "in-flight: reads" in text or "uninitialised: reads" in text


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_copy_over_data_that_is_still_read(policy):
    """The second copy is issued before the other warp is known to have read the first."""
    body = f"""{COPY} cp.async.wait_group 0; bar.sync 0; ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r3];
    {COPY} cp.async.wait_group 0; st.global.v4.u32 [%rd1], {{%r4, %r5, %r6, %r7}}; ret;"""
    text = fault(body, policy)
    assert "race: writes" in text or "in-flight: reads" in text or "race: reads" in text


def test_exit_with_a_copy_in_flight():
    assert "the kernel ended while a cp.async operation was in flight" in fault(f"{COPY} ret;", Policy())


def test_copy_from_outside_of_the_array():
    x, y = arrays()
    with pytest.raises(KernelFault, match=r"cp\.async load of 16 bytes at 0x.*0 bytes past the end of"):
        run_text(f"{HEAD} {COPY} cp.async.wait_group 0; bar.sync 0; {READ}", PARAMETERS, [x[:40], y], block=64)


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_two_copies_to_one_place(policy):
    text = fault(f"{COPY} {COPY} cp.async.wait_group 0; bar.sync 0; {READ}", policy)
    assert "starts an asynchronous write of 16 bytes at byte 0 of shared tile (4096 bytes) while an earlier one" in text
