"""Warp collectives against loops over lanes."""

from __future__ import annotations

import numpy as np
import pytest

from .api import KernelFault, Policy
from .testing import run_lanes, run_text

RNG = np.random.default_rng(0)
X = RNG.integers(0, 2**32, 128, dtype=np.uint32)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(mode, width):
    by = RNG.integers(0, 20, 128).astype(np.uint32)
    bound = 0 if mode == "up" else 31
    clamp = (32 - width) << 8 | bound
    got, valid = run_lanes(f"shfl.sync.{mode}.b32 %o0|%o1, %i0, %i1, {clamp}, -1;", ["b32", "pred"], ("b32", X), ("u32", by))
    for i in range(128):
        warp, lane, n = i // 32 * 32, i % 32, int(by[i])
        first = lane // width * width
        source = {"up": lane - n, "down": lane + n, "bfly": lane ^ n, "idx": first + n % width}[mode]
        inside = source >= first if mode == "up" else source <= first + width - 1
        assert valid[i] == inside
        assert got[i] == X[warp + (source if inside else lane)]


def test_votes_and_matches():
    x = X % 3
    text = """
    .reg .pred %p, %q; setp.eq.u32 %p, %i0, 0;
    vote.sync.ballot.b32 %o0, %p, -1; vote.sync.any.pred %o1, %p, -1; vote.sync.all.pred %o2, %p, -1;
    match.any.sync.b32 %o3, %i0, -1; activemask.b32 %o4;"""
    ballot, some, every, same, active = run_lanes(text, ["b32", "pred", "pred", "b32", "b32"], ("u32", x))
    for warp in range(4):
        part = slice(32 * warp, 32 * warp + 32)
        bits = [1 << i for i in range(32)]
        assert (ballot[part] == sum(b for b, v in zip(bits, x[part], strict=True) if v == 0)).all()
        assert (some[part] == (x[part] == 0).any()).all()
        assert (every[part] == (x[part] == 0).all()).all()
        for i, v in enumerate(x[part]):
            assert same[part][i] == sum(b for b, w in zip(bits, x[part], strict=True) if w == v)
    assert (active == 0xFFFFFFFF).all()


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("add", "u32", np.sum),
        ("max", "s32", np.max),
        ("min", "u32", np.min),
        ("xor", "b32", np.bitwise_xor.reduce),
        ("max", "f32", np.nanmax),
    ],
)
def test_redux(name, kind, function):
    dtype = {"u32": np.uint32, "s32": np.int32, "b32": np.uint32, "f32": np.float32}[kind]
    x = X.view(dtype) if kind != "f32" else RNG.standard_normal(128).astype(np.float32)
    got = run_lanes(f"redux.sync.{name}.{kind} %o0, %i0, -1;", kind, (kind, x))
    want = np.repeat([function(row) for row in x.reshape(4, 32)], 32).astype(dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("policy", [Policy(), Policy("random", seed=3)])
def test_elects_one_lane(policy):
    leader, chosen = run_lanes("elect.sync %o0|%o1, -1;", ["b32", "pred"], ("u32", X), policy=policy)
    for warp in range(4):
        part = slice(32 * warp, 32 * warp + 32)
        assert chosen[part].sum() == 1
        assert (leader[part] == np.argmax(chosen[part])).all()


def test_collectives_wait_for_diverged_members():
    """Half of the warp arrives by another path: the shuffle runs when both halves are there."""
    body = """
    .reg .b32 %r<4>; .reg .pred %p; .reg .b64 %rd<3>;
    mov.u32 %r0, %tid.x; setp.lt.u32 %p, %r0, 16; mov.u32 %r1, %r0;
    @%p bra LOW;
    add.u32 %r1, %r1, 100;
    add.u32 %r1, %r1, 100;
    bra JOIN;
    LOW: add.u32 %r1, %r1, 1;
    JOIN: shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;
    ld.param.u64 %rd0, [out]; mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r2; ret;"""
    for policy in (Policy(), Policy("random", seed=1), Policy("random", seed=2)):
        out = np.zeros(32, np.uint32)
        run_text(body, ".param .u64 out", [out], policy=policy)
        np.testing.assert_array_equal(out, np.r_[np.arange(16) + 216, np.arange(16) + 1])


def test_shuffle_from_an_absent_lane_is_reported():
    body = """
    .reg .b32 %r<4>; .reg .pred %p;
    mov.u32 %r0, %tid.x; setp.lt.u32 %p, %r0, 8;
    @%p shfl.sync.down.b32 %r2, %r0, 4, 31, 0xff; ret;"""
    with pytest.raises(KernelFault, match="shuffle reads lane 8, which does not take part"):
        run_text(body, "", [])


def test_member_mask_must_name_the_executing_lane():
    with pytest.raises(KernelFault, match="member mask 0xffff does not name it"):
        run_text(".reg .b32 %r<4>; mov.u32 %r0, %tid.x; shfl.sync.idx.b32 %r2, %r0, 0, 31, 0xffff; ret;", "", [])


@pytest.mark.parametrize("policy", [Policy(), Policy("random", seed=1)])
def test_collectives_wait_for_members_that_come_from_behind(policy):
    """The other half jumps back to the shuffle from higher addresses: the first half must wait at it."""
    body = """
    .reg .b32 %r<4>; .reg .pred %p; .reg .b64 %rd<3>;
    mov.u32 %r0, %tid.x; setp.lt.u32 %p, %r0, 16; mov.u32 %r1, %r0;
    @%p bra LATE;
    JOIN: shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;
    ld.param.u64 %rd0, [out]; mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r2; ret;
    LATE: add.u32 %r1, %r1, 50; bra JOIN;"""
    out = np.zeros(32, np.uint32)
    run_text(body, ".param .u64 out", [out], policy=policy)
    np.testing.assert_array_equal(out, np.r_[np.arange(16) + 16, np.arange(16) + 50])
