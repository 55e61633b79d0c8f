"""cp.async.bulk and its reductions on strings of bytes, with the findings of wrong sizes, addresses and waits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault
from .testing import run_text

RNG = np.random.default_rng(0)
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
HEAD = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 8 .b8 bar[8]; .shared .align 16 .b8 tile[1024];
mov.u32 %r0, %tid.x; mov.u32 %r1, bar; mov.u32 %r2, tile; setp.eq.u32 %p0, %r0, 0; ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y];
@%p0 mbarrier.init.shared::cta.b64 [%r1], 1; mov.b64 %rd3, 0; bar.sync 0;"""
EXPECT = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 1024;"
LOAD = "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r2], [%rd0], 1024, [%r1], %rd3;"
WAIT = "W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra W;"
STORE = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 1024;"
GROUP = "@%p0 cp.async.bulk.commit_group; @%p0 cp.async.bulk.wait_group 0; ret;"
REDUCE = "@%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.{}.{} [%rd1], [%r2], 1024;"


def run(body: str, x: Any, y: Any, **how: Any):
    return run_text(HEAD + body, ".param .u64 x, .param .u64 y", [x, y], block=64, target="sm_90a", **how)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, 1024, dtype=np.uint8), np.zeros(1024, np.uint8)


def fault(body: str, x: Any = None, y: Any = None, **how: Any) -> str:
    given = arrays()
    with pytest.raises(KernelFault) as caught:
        run(body, given[0] if x is None else x, given[1] if y is None else y, **how)
    return str(caught.value)


@every_policy
def test_there_and_back(policy):
    x, y = arrays()
    result = run("cp.async.bulk.prefetch.L2.global [%rd0], 1024;" + EXPECT + LOAD + WAIT + STORE + GROUP, x, y, policy=policy)
    np.testing.assert_array_equal(y, x)
    assert result.counters.totals["bulk_load_bytes"] == result.counters.totals["bulk_store_bytes"] == 1024
    assert result.counters["bulk_store_sectors"] == 32


@every_policy
@pytest.mark.parametrize(
    ("operation", "kind", "dtype"),
    [
        ("add", "f32", np.float32),
        ("add", "f64", np.float64),
        ("add.noftz", "f16", np.float16),
        ("add.noftz", "bf16", ml_dtypes.bfloat16),
        ("min", "f16", np.float16),
        ("max", "bf16", ml_dtypes.bfloat16),
        ("add", "u64", np.uint64),
        ("max", "s64", np.int64),
        ("min", "s32", np.int32),
        ("and", "b32", np.uint32),
        ("or", "b64", np.uint64),
    ],
)
def test_reductions(operation, kind, dtype, policy):
    """Three CTAs, one place."""
    dtype = np.dtype(dtype)
    x, y = (RNG.integers(-9, 9, 1024 // dtype.itemsize).astype(dtype) for _ in range(2))
    rule = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or}[
        operation.split(".")[0]
    ]
    want = y.copy()
    for _ in range(3):
        want = rule(want, x)
    result = run(EXPECT + LOAD + WAIT + REDUCE.format(operation, kind) + GROUP, x, y, grid=3, policy=policy)
    np.testing.assert_array_equal(y, want)
    assert result.counters["bulk_reduce_bytes"] == 3 * 1024


@pytest.mark.not_assembled("a size that is no multiple of 16")
def test_sizes_and_addresses():
    assert "a bulk copy of 1000 bytes: a multiple of 16" in fault(EXPECT + LOAD.replace("1024", "1000") + WAIT + "ret;")
    text = fault("add.s64 %rd0, %rd0, 8;" + EXPECT + LOAD + WAIT + "ret;")
    assert "misaligned: a bulk copy of 1024 bytes at global address" in text
    text = fault(EXPECT + LOAD.replace("[%r2]", "[%r2+8]").replace("1024", "512") + WAIT + "ret;")
    assert "misaligned: bulk access of 512 bytes at address" in text
    text = fault("add.s64 %rd0, %rd0, 16;" + EXPECT + LOAD + WAIT + "ret;")
    assert "out-of-bounds: global load of 1024 bytes at byte 16 of argument 0 (x) (1024 bytes), of which the last 16" in text
    text = fault(EXPECT + LOAD.replace("[%r2]", "[%r2+16]") + WAIT + "ret;")
    assert "of shared tile (1024 bytes), of which the last 16 lie past its end" in text
    assert "an mbarrier is named by an asynchronous operation that was not initialised" in fault(
        LOAD.replace("[%r1]", "[%r2]") + "ret;"
    )


@every_policy
def test_two_ctas_store_to_one_place(policy):
    text = fault(EXPECT + LOAD + WAIT + STORE + GROUP, grid=2, policy=policy, resident=2)
    assert "race: writes" in text or "in-flight: asynchronously writes" in text


@every_policy
def test_reduction_of_what_is_being_stored(policy):
    text = fault(EXPECT + LOAD + WAIT + STORE + REDUCE.format("add", "u32") + GROUP, policy=policy)
    assert "in-flight: asynchronously adds to 1024 bytes at byte 0 of argument 1 (y) (1024 bytes) while an earlier" in text


@every_policy
def test_store_over_what_is_being_reduced(policy):
    text = fault(EXPECT + LOAD + WAIT + REDUCE.format("add", "u32") + "@%p0 st.global.u32 [%rd1+4], %r0;" + GROUP, policy=policy)
    assert "in-flight: writes 4 bytes at byte 4 of argument 1 (y)" in text


def test_reduction_of_nothing():
    text = fault(EXPECT + LOAD + WAIT + REDUCE.format("add", "u32") + GROUP, y=Buffer(np.zeros(1024, np.uint8), "y", False))
    assert "uninitialised: asynchronously adds to 1024 bytes at byte 0 of y (1024 bytes), which nothing has written" in text


@every_policy
def test_what_a_store_wrote_is_there_for_later_loads_of_the_kernel(policy):
    """One CTA; the copy goes round: store, wait, load again."""
    x, y = arrays()
    again = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 1024;" + LOAD.replace("%rd0", "%rd1")
    body = (
        EXPECT + LOAD + WAIT + STORE + "@%p0 cp.async.bulk.commit_group; @%p0 cp.async.bulk.wait_group {0}; bar.sync 0;" + again
    )
    body += WAIT.replace("W", "V").replace(", 0;", ", 1;") + "ret;"
    run(body.replace("{0}", "0"), x, y, policy=policy)
    text = fault(body.replace("{0}", "1"), policy=policy)
    assert "in-flight: asynchronously reads 1024 bytes at byte 0 of argument 1 (y)" in text
