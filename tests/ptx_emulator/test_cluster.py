"""Clusters: addresses, barriers, distributed shared memory, st.async and red.async, multicast, and memory that is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .api import EVERY_POLICY, KernelFault, Policy, Result, launch
from .tensor_map import TensorMap
from .testing import run_text

RNG = np.random.default_rng(0)
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
SYNC = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
# %r0 thread, %r1 rank, %r2 the other CTA's rank in a pair, %r3 own tile, %r4 the other's tile, %r5 own mbarrier, %r6 the other's;
# %rd1 y + 4 * (thread of the grid).
HEAD = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<6>; .shared .align 8 .b8 bar[8]; .shared .align 128 .b8 tile[1024];
mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1; mov.u32 %r3, tile; mov.u32 %r5, bar;
mapa.shared::cluster.u32 %r4, %r3, %r2; mapa.shared::cluster.u32 %r6, %r5, %r2; ld.param.u64 %rd1, [y];
mov.u32 %r7, %ctaid.x; mov.u32 %r8, %ntid.x; mad.lo.u32 %r7, %r7, %r8, %r0; mul.wide.u32 %rd2, %r7, 4; add.s64 %rd1, %rd1, %rd2;
shl.b32 %r9, %r0, 2; add.u32 %r10, %r3, %r9; add.u32 %r11, %r4, %r9; setp.eq.u32 %p0, %r0, 0;"""
INIT = "@%p0 mbarrier.init.shared::cta.b64 [%r5], {0}; " + SYNC
WAIT = "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r5], 0; @!%p2 bra W;"
PUT = "st.global.u32 [%rd1], %r12;"


def run(body: str, block: int = 32, grid: int = 2, cluster: int = 2, **how: Any) -> np.ndarray:
    y = np.zeros(grid * block, np.uint32)
    run_text(f"{HEAD} {body} ret;", ".param .u64 y", [y], block=block, grid=grid, cluster=cluster, target="sm_90a", **how)
    return y


def fault(body: str, **how: Any) -> str:
    with pytest.raises(KernelFault) as caught:
        run(body, **how)
    return str(caught.value)


FILL = "mad.lo.u32 %r12, %r7, 10, 7; st.shared.u32 [%r10], %r12;"
PEER = np.arange(64) ^ 32


@every_policy
@pytest.mark.parametrize("address", ["shared", "generic", "u64"])
def test_reading_the_other_ctas_memory(address, policy):
    read = {
        "shared": "ld.shared::cluster.u32 %r12, [%r11];",
        "generic": "cvt.u64.u32 %rd3, %r11; cvta.shared.u64 %rd3, %rd3; ld.u32 %r12, [%rd3];",
        "u64": "cvt.u64.u32 %rd3, %r10; cvta.shared.u64 %rd3, %rd3; mapa.u64 %rd3, %rd3, %r2; ld.u32 %r12, [%rd3];",
    }[address]
    y = run(FILL + SYNC + read + PUT + SYNC, policy=policy)
    np.testing.assert_array_equal(y, PEER * 10 + 7)


@every_policy
def test_atomics_on_the_other_ctas_memory(policy):
    body = (
        "@%p0 st.shared.u32 [%r3], 5;"
        + SYNC
        + "red.shared::cluster.add.u32 [%r4], %r0; atom.shared::cluster.add.u32 %r13, [%r3], 1;"
    )
    y = run(body + SYNC + "ld.shared.u32 %r12, [%r3];" + PUT, policy=policy)
    assert (y == 5 + 31 * 16 + 32).all()


def test_special_registers_and_ranks():
    body = """getctarank.shared::cluster.u32 %r12, %r4; mov.u32 %r13, %cluster_nctarank; mad.lo.u32 %r12, %r13, 100, %r12;
    mov.u32 %r13, %clusterid.x; mad.lo.u32 %r12, %r13, 10000, %r12; mov.u32 %r13, %nclusterid.x;
    mad.lo.u32 %r12, %r13, 1000000, %r12; mov.u32 %r13, %cluster_ctaid.x; mad.lo.u32 %r12, %r13, 100000000, %r12;
    cvt.u64.u32 %rd3, %r4; cvta.shared.u64 %rd3, %rd3;
    getctarank.u64 %r13, %rd3; mad.lo.u32 %r12, %r13, 1000, %r12;"""
    y = run(body + PUT, grid=6).reshape(6, 32)
    for cta in range(6):
        other = cta % 2 ^ 1
        assert (y[cta] == other + 200 + 1000 * other + 10000 * (cta // 2) + 3000000 + 100000000 * (cta % 2)).all()


@every_policy
def test_a_cluster_barrier_is_needed(policy):
    text = fault(FILL + "ld.shared::cluster.u32 %r12, [%r11];" + PUT + SYNC, policy=policy)
    assert "uninitialised: reads" in text or "race: reads" in text or "race: writes" in text
    relaxed = SYNC.replace("arrive", "arrive.relaxed")
    text = fault(FILL + relaxed + "ld.shared::cluster.u32 %r12, [%r11];" + PUT + SYNC, policy=policy)
    assert "race: reads 4 bytes" in text


@every_policy
def test_memory_of_a_cta_that_may_have_ended(policy):
    text = fault(FILL + SYNC + "ld.shared::cluster.u32 %r12, [%r11];" + PUT, policy=policy)
    assert "freed: " in text
    assert "nothing makes the CTA wait for that before it ends" in text or "which has ended" in text


@every_policy
def test_a_cluster_barrier_orders_global_memory(policy):
    """Each CTA writes its part of y and reads the other's; then both overwrite what both have read."""
    there = "xor.b32 %r12, %r7, 32; ld.param.u64 %rd4, [y]; mul.wide.u32 %rd3, %r12, 4; add.s64 %rd3, %rd4, %rd3;"
    put, get = "st.global.u32 [%rd1], %r7;", "ld.global.u32 %r12, [%rd3]; ld.global.u32 %r13, [%rd1];"
    y = run(there + put + SYNC + get + SYNC + PUT, policy=policy)
    np.testing.assert_array_equal(y, PEER)
    for sync in ("", SYNC.replace("arrive", "arrive.relaxed")):
        text = fault(there + put + sync + get + SYNC + PUT, policy=policy)
        assert "race: reads" in text or "race: writes" in text or "race: overwrites" in text
    text = fault(there + put + SYNC + get + PUT, policy=policy)
    assert "race: " in text


@every_policy
def test_memory_of_a_cta_that_has_ended(policy):
    slow = (
        "setp.eq.u32 %p3, %r1, 0; @%p3 exit; mov.u32 %r13, 0; L: add.u32 %r13, %r13, 1; setp.lt.u32 %p3, %r13, 300; @%p3 bra L;"
    )
    text = fault(FILL + SYNC + slow + "ld.shared::cluster.u32 %r12, [%r11];" + PUT, policy=policy)
    assert "freed: accesses the shared memory of CTA 0 of the cluster, which has ended" in text


@every_policy
def test_asynchronous_writes_to_a_cta_that_does_not_wait(policy):
    expect = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 128;"
    store = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r11], %r7, [%r6];"
    copy = "@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r4], [%r3+512], 128, [%r6];"
    for write in (store, copy):
        text = fault(INIT.format(1) + expect + write, policy=policy)
        assert "freed: the shared memory of CTA" in text or "freed: accesses the shared memory of CTA" in text
    text = fault(INIT.format(1) + expect + store.replace("[%r6]", "[%r5]") + WAIT + SYNC, policy=policy)
    assert "the destination and its mbarrier lie in different CTAs: both must be in one" in text


@every_policy
def test_remote_arrivals(policy):
    """Each CTA writes the other's tile and arrives at its mbarrier."""
    body = INIT.format(32) + "st.shared::cluster.u32 [%r11], %r7; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];"
    read = "xor.b32 %r13, %r10, 4; ld.shared.u32 %r12, [%r13];"
    y = run(body + WAIT + read + PUT, policy=policy)
    np.testing.assert_array_equal(y, PEER ^ 1)
    text = fault(body.replace(".release.", ".relaxed.") + WAIT + read + PUT, policy=policy)
    assert "race: reads" in text
    text = fault(INIT.format(32) + "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];", policy=policy)
    assert "freed: the shared memory of CTA" in text or "which has ended" in text


@every_policy
def test_st_async(policy):
    expect = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], {0};"
    store = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r11], %r7, [%r6];"
    read = "xor.b32 %r13, %r10, 4; ld.shared.u32 %r12, [%r13];"
    y = run(INIT.format(1) + expect.format(128) + store + WAIT + read + PUT, policy=policy)
    np.testing.assert_array_equal(y, PEER ^ 1)
    text = fault(INIT.format(1) + expect.format(128) + store + read + WAIT + PUT, policy=policy)
    assert "in-flight: reads" in text or "race: reads" in text or "uninitialised" in text or "race: asynchronously writes" in text
    vector = (
        "shl.b32 %r13, %r0, 4; add.u32 %r13, %r4, %r13; st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r13], "
    )
    vector += "{%r0, %r1, %r7, %r8}, [%r6];"
    y = run(INIT.format(1) + expect.format(512) + vector + WAIT + "ld.shared.u32 %r12, [%r3+40];" + PUT, policy=policy)
    np.testing.assert_array_equal(y.reshape(2, 32)[:, 0], [34, 2])


@every_policy
@pytest.mark.parametrize(("operation", "want"), [("add", 496 * 2 + 5), ("max", 62), ("xor", 5), ("inc", 32 + 5)])
def test_red_async(operation, want, policy):
    expect = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 128; add.u32 %r12, %r0, %r0;"
    if operation == "inc":
        expect += "mov.u32 %r12, 1000;"
    kind = "b32" if operation == "xor" else "u32"
    reduce = f"red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{operation}.{kind} [%r4], %r12, [%r6];"
    body = "@%p0 st.shared.u32 [%r3], 5;" + INIT.format(1) + expect + reduce + WAIT + "ld.shared.u32 %r12, [%r3];" + PUT
    assert (run(body, policy=policy) == want).all()


@every_policy
def test_bulk_copy_between_ctas(policy):
    expect = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 128;"
    copy = "@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r4], [%r3+512], 128, [%r6];"
    fill = "add.u32 %r10, %r10, 512;" + FILL + "fence.proxy.async; "
    read = "add.u32 %r13, %r3, %r9; ld.shared.u32 %r12, [%r13];"
    y = run(fill + INIT.format(1) + expect + copy + WAIT + read + PUT + SYNC, policy=policy)
    np.testing.assert_array_equal(y, PEER * 10 + 7)
    text = fault(
        fill.replace("fence.proxy.async;", "") + INIT.format(1) + expect + copy + WAIT + read + PUT + SYNC, policy=policy
    )
    assert "proxy-fence: the async proxy accesses" in text
    text = fault(fill + INIT.format(1) + expect + copy + "st.shared.u32 [%r10], 0;" + WAIT + read + PUT + SYNC, policy=policy)
    assert "may still be reading it" in text or "race: writes" in text
    text = fault(fill + INIT.format(1) + expect + copy.replace("[%r6]", "[%r5]") + WAIT + read + PUT + SYNC, policy=policy)
    assert "the destination lies in the cluster's CTA 1, its mbarrier in CTA 0" in text or "its mbarrier in CTA 1" in text


@every_policy
@pytest.mark.parametrize(("operation", "kind"), [("add", "u32"), ("max", "s32"), ("xor", "b32"), ("add", "u64"), ("inc", "u32")])
def test_bulk_reduction_in_another_cta(operation, kind, policy):
    """Both CTAs of a pair reduce into CTA 0, at once."""
    fill = (
        "@%p0 mbarrier.init.shared::cta.b64 [%r5], 1; st.shared.u32 [%r10], 3; st.shared.u32 [%r10+512], %r7; fence.proxy.async;"
    )
    target = "mov.u32 %r13, 0; mapa.shared::cluster.u32 %r4, %r3, %r13; mapa.shared::cluster.u32 %r6, %r5, %r13;"
    expect = "setp.eq.u32 %p3, %r1, 0; @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 256;"
    reduce = f"@%p0 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{operation}.{kind} [%r4], "
    reduce += "[%r3+512], 128, [%r6];"
    read = "@!%p3 bra E;" + WAIT + "ld.shared.u32 %r12, [%r10];" + PUT + "E: "
    y = run(fill + SYNC + target + expect + reduce + read + SYNC, policy=policy)[:32]
    old, values = np.full(32, 3), [np.arange(32), np.arange(32, 64)]
    rules = {"add": np.add, "max": np.maximum, "xor": np.bitwise_xor, "inc": lambda a, b: np.where(a >= b, 0, a + 1)}
    results = []
    for order in (values, values[::-1]):
        want = old
        for each in order:
            want = rules[operation](want, each)
        results.append(want)
    assert ((y == results[0]) | (y == results[1])).all()


def test_misuse_of_the_cluster_barrier():
    assert "again without a barrier.cluster.wait" in fault("barrier.cluster.arrive; barrier.cluster.arrive;")
    assert "that has not arrived" in fault("barrier.cluster.wait;")
    text = fault("setp.eq.u32 %p3, %r1, 1; @%p3 bar.sync 1, 64; barrier.cluster.arrive; barrier.cluster.wait;")
    assert (
        "32 threads wait for the cluster barrier, where 32 threads have not arrived (the first is (0, 0, 0) of CTA (1, 0, 0))"
        in text
    )
    assert "by part of a warp" in fault(
        "setp.lt.u32 %p3, %r0, 7; @%p3 barrier.cluster.arrive.aligned; @!%p3 barrier.cluster.arrive;" + "barrier.cluster.wait;"
    )


def test_threads_that_have_ended_count_as_arrived():
    y = run("setp.gt.u32 %p3, %r0, 40; @%p3 exit; mov.u32 %r12, 1;" + SYNC.replace(".aligned", "") + PUT, block=64)
    assert y.sum() == 82


def test_addresses_outside_of_the_cluster():
    assert "mapa to CTA 3 of a cluster of 2" in fault("mapa.shared::cluster.u32 %r4, %r3, 3;")
    text = fault(FILL + SYNC + "ld.shared.u32 %r12, [%r11];" + PUT + SYNC)
    assert "an access to the CTA's own shared memory (.shared or .shared::cta) with an address in CTA" in text
    text = fault("or.b32 %r11, %r11, 0x5000000; ld.shared::cluster.u32 %r12, [%r11];")
    assert "out-of-bounds: shared load" in text


# Compiled kernels.


@every_policy
def test_sum_over_a_cluster(cuda, policy):
    x, out = RNG.integers(0, 100, (3, 1000)).astype(np.float32), np.zeros(3, np.float32)
    launch(cuda("tma_sm90", "sm_90a")["cluster_sum"], 12, 64, [x, out, 1000], policy=policy)
    np.testing.assert_array_equal(out, x.sum(axis=1))
    with pytest.raises(KernelFault, match="freed: "):
        launch(cuda("tma_sm90", "sm_90a", "-DNO_LAST_SYNC")["cluster_sum"], 12, 64, [x, out, 1000], policy=policy)


def multicast(cuda, policy: Policy) -> tuple[np.ndarray, np.ndarray, Result]:
    x = RNG.integers(0, 2**16, (192, 64), dtype=np.uint16)
    out = np.zeros((3, 2, 64, 64), np.uint16)
    result = launch(cuda("tma_sm90", "sm_90a")["multicast"], 6, 128, [TensorMap(x, (32, 64)), out], policy=policy)
    return x, out, result


@every_policy
def test_multicast(cuda, policy):
    x, out, result = multicast(cuda, policy)
    for rank in range(2):
        np.testing.assert_array_equal(out[:, rank], x.reshape(3, 64, 64))
    assert result.counters["bulk_load_bytes"] == x.nbytes  # each half is read once for both


@every_policy
@pytest.mark.parametrize("multicast", [False, True])
def test_pairs_of_ctas_signal_one_mbarrier(multicast, policy):
    """cta_group::2: both CTAs load into their own memory and tell the mbarrier of the even one."""
    leader = "mov.b64 %rd3, map; cvta.param.u64 %rd3, %rd3; and.b32 %r13, %r5, 0xFEFFFFFF; shl.b32 %r14, %r1, 5;"
    target, last, mask = "shared::cta", "", ""
    if multicast:  # CTA 0 loads the same bytes for both
        target, last, mask = "shared::cluster", ".multicast::cluster", ", 3"
        leader += "setp.eq.and.u32 %p0, %r1, 0, %p0; mov.u32 %r14, 32;"
    expect = "setp.eq.and.u32 %p1, %r0, 0, %p4; @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 256;"
    load = f"@%p0 cp.async.bulk.tensor.1d.{target}.global.tile.mbarrier::complete_tx::bytes{last}.cta_group::2 "
    load += f"[%r3], [%rd3, {{%r14}}], [%r13]{mask};"
    wait = "@!%p4 bra AFTER;" + WAIT + "AFTER:"
    x, y = RNG.integers(0, 2**32, 64, dtype=np.uint32), np.zeros(64, np.uint32)
    body = (
        HEAD
        + INIT.format(1)
        + leader
        + "setp.eq.u32 %p4, %r1, 0;"
        + expect
        + load
        + wait
        + SYNC
        + "ld.shared.u32 %r12, [%r10];"
        + PUT
    )
    parameters = ".param .align 64 .b8 map[128], .param .u64 y"
    args = [TensorMap(x, (32,)), y]
    run_text(body + "ret;", parameters, args, block=32, grid=2, cluster=2, target="sm_100a", policy=policy)
    np.testing.assert_array_equal(y, np.r_[x[32:], x[32:]] if multicast else x)


def test_multicast_to_ctas_that_do_not_exist():
    body = """mov.b64 %rd3, map; cvta.param.u64 %rd3, %rd3; @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 256;
    @%p0 cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r3], [%rd3, {%r0}],
    [%r5], {0}; """
    text = HEAD + INIT.format(1) + body.replace("{0}", "7")
    args = [TensorMap(np.zeros(256, np.uint8), (256,)), np.zeros(64, np.uint32)]
    parameters = ".param .align 64 .b8 map[128], .param .u64 y"
    with pytest.raises(KernelFault, match="the CTA mask 0x7 of a multicast names CTAs outside of the cluster of 2"):
        run_text(text + WAIT + "ret;", parameters, args, block=32, grid=2, cluster=2, target="sm_90a")
