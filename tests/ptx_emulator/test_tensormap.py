"""Tensor maps made on the device: tensormap.replace, cp_fenceproxy, the fences they need; and compiled TMA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Struct, launch
from .tensor_map import TensorMap
from .testing import run_text

RNG = np.random.default_rng(0)
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
HEAD = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 128 .b8 map[128]; .shared .align 8 .b8 bar[8];
.shared .align 1024 .b8 tile[1024]; mov.u32 %r0, %tid.x; mov.u32 %r1, map; mov.u32 %r2, tile; mov.u32 %r3, bar;
ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [maps]; ld.param.u64 %rd2, [y]; setp.eq.u32 %p0, %r0, 0; setp.lt.u32 %p1, %r0, 32;
shl.b32 %r4, %r0, 2; add.u32 %r5, %r1, %r4; mov.u32 %r6, 0; @%p1 st.shared.u32 [%r5], %r6;
@%p0 mbarrier.init.shared::cta.b64 [%r3], 1; bar.sync 0;"""
# A map of x: 16 x 32 elements of f16, boxes of 8 x 32, 64-byte swizzle.
FIELDS = [
    "global_address.{}.b1024.b64 [{}], %rd0",
    "rank.{}.b1024.b32 [{}], 1",
    "box_dim.{}.b1024.b32 [{}], 0, 32",
    "box_dim.{}.b1024.b32 [{}], 1, 8",
    "global_dim.{}.b1024.b32 [{}], 0, 32",
    "global_dim.{}.b1024.b32 [{}], 1, 16",
    "global_stride.{}.b1024.b64 [{}], 0, 64",
    "element_stride.{}.b1024.b32 [{}], 0, 1",
    "element_stride.{}.b1024.b32 [{}], 1, 1",
    "elemtype.{}.b1024.b32 [{}], 6",
    "interleave_layout.{}.b1024.b32 [{}], 0",
    "swizzle_mode.{}.b1024.b32 [{}], 2",
    "fill_mode.{}.b1024.b32 [{}], 0",
]
PUBLISH = "@%p1 tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd1], [%r1], 128;"
ACQUIRE = "@%p0 fence.proxy.tensormap::generic.acquire.gpu [%rd1], 128;"
LOAD = """@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 512;
@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd1, {0, 8}], [%r3];
W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra W;
add.u32 %r5, %r2, %r4; ld.shared.u32 %r7, [%r5]; mul.wide.u32 %rd4, %r4, 1; add.s64 %rd2, %rd2, %rd4; st.global.u32 [%rd2], %r7;
add.u32 %r5, %r5, 256; ld.shared.u32 %r7, [%r5]; st.global.u32 [%rd2+256], %r7; ret;"""


def replaced(space: str = "shared::cta", at: str = "%r1", skip: str = "", only: str = "@%p0 ") -> str:
    return " ".join(f"{only}tensormap.replace.tile.{f.format(space, at)};" for f in FIELDS if not skip or skip not in f)


def run(body: str, maps: Any = None, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = RNG.integers(0, 2**16, (16, 32), dtype=np.uint16), np.zeros((8, 32), np.uint16)
    maps = Buffer(np.zeros(128, np.uint8), "maps", initialised=False) if maps is None else maps
    parameters = ".param .u64 x, .param .u64 maps, .param .u64 y"
    run_text(HEAD + body, parameters, [x, maps, y], block=64, target="sm_90a", **how)
    return x, y


def fault(body: str, **how: Any) -> str:
    with pytest.raises(KernelFault) as caught:
        run(body, **how)
    return str(caught.value)


def swizzled_64(rows: np.ndarray) -> np.ndarray:
    """(8, 32) f16: chunk j of row r is at j ^ (r // 2 % 4)."""
    chunks = rows.reshape(8, 4, 8)
    return np.stack([chunks[r][[j ^ (r // 2) for j in range(4)]].reshape(32) for r in range(8)])


@every_policy
def test_map_made_in_shared_memory(policy):
    x, y = run(replaced() + "bar.sync 0;" + PUBLISH + ACQUIRE + LOAD, policy=policy)
    np.testing.assert_array_equal(y, swizzled_64(x[8:]))


@every_policy
@pytest.mark.parametrize("space", ["global", "generic"])
def test_map_made_in_global_memory(space, policy):
    made = replaced(space, "%rd1").replace(".generic.", ".")
    release = "@%p0 fence.proxy.tensormap::generic.release.gpu; bar.sync 0;"
    maps = np.zeros(128, np.uint8)
    x, y = run(made + release + ACQUIRE + LOAD, maps, policy=policy)
    np.testing.assert_array_equal(y, swizzled_64(x[8:]))
    assert "without a fence.proxy.tensormap::generic.release" in fault(made + ACQUIRE + LOAD, maps=maps, policy=policy)


@every_policy
def test_missing_acquire(policy):
    body = replaced() + "bar.sync 0;" + PUBLISH
    text = fault(body + LOAD, policy=policy)
    assert "proxy-fence: uses the tensor map at 128 bytes at byte 0 of maps (128 bytes), which PTX line" in text
    assert "without a fence.proxy.tensormap::generic.acquire of it in between" in text
    text = fault(replaced() + "bar.sync 0;" + ACQUIRE + PUBLISH + LOAD, policy=policy)
    assert "without a fence.proxy.tensormap::generic.acquire" in text
    acquired_elsewhere = "setp.eq.u32 %p3, %r0, 40;" + body + "bar.sync 0;" + ACQUIRE.replace("%p0", "%p3")
    run(acquired_elsewhere + "bar.sync 0;" + LOAD, policy=policy)
    assert "generic.acquire of it in between" in fault(acquired_elsewhere + LOAD, policy=policy)


def test_maps_that_are_not_valid():
    text = fault(replaced(skip="rank") + "bar.sync 0;" + PUBLISH + ACQUIRE + LOAD)
    assert "takes a tensor of rank 2, the tensor map has rank 1" in text
    text = fault(replaced(skip="box_dim") + "bar.sync 0;" + PUBLISH + ACQUIRE + LOAD)
    assert "descriptor: the tensor map is not valid: box 0 is 0 elements: 1 to 256 are allowed; box 1 is 0" in text
    wrong = replaced().replace("0, 64;", "0, 72;")
    assert "the stride of dimension 1 is 72 bytes" in fault(wrong + "bar.sync 0;" + PUBLISH + ACQUIRE + LOAD)
    moved = PUBLISH + "add.s64 %rd1, %rd1, 32;" + ACQUIRE + LOAD
    text = fault(replaced() + "bar.sync 0;" + moved, maps=np.zeros(256, np.uint8))
    assert "not a multiple of 64" in text
    text = fault(replaced(only="") + "bar.sync 0;" + PUBLISH.replace("%p1", "%p0") + LOAD)
    assert "executed by part of a warp" in text


@every_policy
def test_map_that_is_not_ordered(policy):
    """Two warps: one makes the map, the other publishes it."""
    made = "setp.eq.u32 %p3, %r0, 32;" + replaced(only="@%p3 ")
    text = fault(made + PUBLISH + ACQUIRE + LOAD, policy=policy)
    assert "race: " in text or "not valid" in text


# Compiled kernels.


@every_policy
def test_transpose(cuda, policy):
    x, y = RNG.integers(0, 2**16, (128, 192), dtype=np.uint16), np.zeros((192, 128), np.uint16)
    maps = [TensorMap(a, (64, 64), swizzle="128B") for a in (x, y)]
    result = launch(cuda("tma_sm90", "sm_90a")["transpose"], (3, 2), 256, maps, policy=policy)
    np.testing.assert_array_equal(y, x.T)
    assert result.counters["bulk_load_bytes"] == result.counters["bulk_store_bytes"] == x.nbytes
    assert result.counters["bulk_load_sectors"] == x.nbytes // 32


def grouped(kernel, **how: Any) -> tuple[list[np.ndarray], np.ndarray]:
    members = [RNG.integers(0, 2**16, shape, dtype=np.uint16) for shape in ((64, 64), (40, 24), (3, 8), (70, 64))]
    out, maps = np.zeros((4, 64, 64), np.uint16), Buffer(np.zeros((4, 128), np.uint8), "maps", initialised=False)
    table = Struct("Pii" * 4, *[v for m in members for v in (m, m.shape[0], m.shape[1])])
    pattern = TensorMap(members[0], (64, 64))
    launch(kernel, 4, 64, [pattern, table, maps, out], **how)
    return members, out


@every_policy
def test_a_map_for_every_member_of_a_group(cuda, policy):
    members, out = grouped(cuda("tma_sm90", "sm_90a")["grouped"], policy=policy)
    for member, got in zip(members, out, strict=True):
        rows, columns = min(member.shape[0], 64), member.shape[1]
        want = np.zeros((64, 64), np.uint16)
        want[:rows, :columns] = member[:rows]
        np.testing.assert_array_equal(got, want)
    with pytest.raises(KernelFault, match=r"generic\.acquire of it in between"):
        grouped(cuda("tma_sm90", "sm_90a", "-DNO_ACQUIRE")["grouped"], policy=policy)
