"""Triton's compiled kernels, which are right on hardware: a wrong value or a report here is the emulator's mistake.

Each architecture meets every policy, one for a case in turn; some cases of each kind run under all. Where Triton's own code is at
fault, the case expects that report (docs/notes).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

from .api import EVERY_POLICY, Policy
from .corpus_products import (
    attention,
    matmul_batched,
    matmul_descriptors,
    matmul_pointers,
    matmul_quantized,
    matmul_scaled,
    matmul_split,
)
from .corpus_rows import (
    atomics,
    casts,
    cross_entropy,
    dropout,
    functions,
    histogram,
    layer_norm,
    quantize_blocks,
    reductions,
    scans,
    shuffles,
    softmax,
    sorting,
    transpose,
    weight_gradient,
)
from .corpus_work import BF16, E4M3, E5M2, FP16, FP32, INT8, INT32, Case

WGMMA, MMA, CP_ASYNC, TMA = "wgmma.mma_async", "mma.sync", "cp.async.cg", "cp.async.bulk.tensor"
TCGEN05, SPECIALISED = "tcgen05.mma", "setmaxnreg"

# docs/notes/2026-11-25-what-triton-leaves-to-chance.md and -triton-invalidates-mbarriers-early.md
WGMMA_WITHOUT_WAIT = ("in-flight", r"reads register %r\d+, an accumulator of wgmma\.mma_async .* while it may still be in flight")
EVERY_LANE_STORES = ("race", r"several threads store different values to 4 bytes at byte \d+ of shared global_smem .* at once")
TWO_WARPGROUPS_STORE = (
    "race",
    r"writes 16 bytes at byte \d+ of out_desc .* which warp \d+ of the CTA writes .* no barrier orders",
)
TENSOR_MEMORY_WITHOUT_WAIT = ("in-flight", r"reads register %r\d+ while tcgen05\.ld at PTX line \d+ may still be writing it")
INVALIDATED_EARLY = ("mbarrier", r"is invalidated while tcgen05\.commit")


def case(target: int, make, *, uses=(), warps=4, stages=3, ctas=1, under=(), reports=(), defined=True, **settings) -> Case:
    return Case(target, make, settings, warps, stages, ctas, uses, under, reports, defined)


PRODUCTS = [
    case(80, matmul_pointers, dtype=FP16, block=(64, 64, 32), stages=4, uses=[MMA, CP_ASYNC], under=EVERY_POLICY),
    case(80, matmul_pointers, dtype=BF16, block=(64, 128, 32), warps=8, layout="nt", uses=[MMA]),
    case(80, matmul_pointers, dtype=E5M2, block=(64, 64, 64), stages=2, uses=[MMA]),
    case(80, matmul_pointers, dtype=FP32, block=(64, 32, 32), stages=2, uses=["mma.sync.aligned.m16n8k8.row.col.f32.tf32"]),
    case(80, matmul_pointers, dtype=FP32, block=(32, 32, 32), precision="ieee", stages=1, shape=(40, 32, 72)),
    case(80, matmul_pointers, dtype=FP32, block=(32, 32, 32), precision="tf32x3", stages=2, uses=[MMA]),
    case(80, matmul_pointers, dtype=INT8, block=(64, 64, 64), uses=["mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"]),
    case(80, matmul_split, dtype=BF16, block=(32, 64, 64), stages=3, uses=[MMA]),
    case(80, matmul_batched, dtype=FP16),
    case(80, matmul_quantized, dtype=FP16, block=(32, 64, 64), uses=[MMA]),
    case(80, attention, dtype=FP16, head=64, block=(64, 32), causal=True, stages=2, uses=[MMA], under=EVERY_POLICY),
    case(80, matmul_descriptors, dtype=FP16, block=(64, 64, 64), uses=[MMA]),
    case(89, matmul_pointers, dtype=E4M3, block=(64, 64, 64), uses=["m16n8k32.row.col.f32.e4m3.e4m3"], under=EVERY_POLICY),
    case(89, matmul_pointers, dtype=E5M2, block=(32, 128, 128), warps=8, stages=2, uses=["e5m2.e5m2"]),
    case(89, matmul_pointers, dtype=BF16, block=(128, 64, 32), stages=1, layout="tt", uses=[MMA]),
    case(89, matmul_split, dtype=E4M3, block=(64, 64, 64), stages=4, uses=[MMA]),
    case(89, matmul_quantized, dtype=BF16, block=(32, 64, 32), stages=4, uses=[MMA]),
    case(89, matmul_batched, dtype=BF16, warps=8),
    case(89, matmul_descriptors, dtype=BF16, block=(64, 64, 64), kind="persistent", stages=2, uses=[MMA]),
    case(89, attention, dtype=BF16, head=32, block=(64, 64), warps=8, uses=[MMA]),
    case(90, matmul_pointers, dtype=FP16, block=(64, 64, 64), uses=[WGMMA, CP_ASYNC], under=EVERY_POLICY),
    case(90, matmul_pointers, dtype=BF16, block=(128, 64, 32), warps=8, stages=4, layout="nt", uses=[WGMMA]),
    case(90, matmul_pointers, dtype=E4M3, block=(64, 128, 64), stages=2, uses=["f32.e4m3.e4m3"]),
    case(90, matmul_pointers, dtype=E5M2, block=(128, 64, 128), warps=8, stages=3, uses=["f32.e5m2.e5m2"]),
    case(90, matmul_pointers, dtype=FP32, block=(64, 64, 32), stages=3, uses=["f32.tf32.tf32"]),
    case(90, matmul_pointers, dtype=INT8, block=(64, 64, 64), uses=["s32.s8.s8"]),
    case(90, matmul_pointers, dtype=BF16, block=(64, 64, 64), ctas=2, uses=[WGMMA]),
    case(
        90,
        matmul_pointers,
        dtype=E4M3,
        block=(64, 64, 64),
        imprecise=64,
        uses=[WGMMA],
        defined=False,
        reports=[WGMMA_WITHOUT_WAIT],
    ),
    case(90, matmul_pointers, dtype=BF16, block=(16, 32, 64), uses=[MMA]),
    case(90, matmul_split, dtype=FP16, block=(64, 64, 64), uses=[WGMMA]),
    case(90, matmul_quantized, dtype=BF16, block=(64, 64, 64), uses=[WGMMA]),
    case(90, matmul_batched, dtype=FP16),
    case(90, matmul_descriptors, dtype=BF16, block=(64, 64, 64), uses=[WGMMA, TMA], under=EVERY_POLICY),
    case(90, matmul_descriptors, dtype=E4M3, block=(128, 64, 128), warps=8, stages=4, uses=[WGMMA, TMA]),
    case(90, matmul_descriptors, dtype=FP16, block=(128, 128, 32), warps=4, stages=1, uses=[WGMMA, TMA]),
    case(90, matmul_descriptors, dtype=FP32, block=(64, 64, 32), stages=2, uses=[WGMMA, TMA]),
    case(
        90,
        matmul_descriptors,
        dtype=FP16,
        block=(64, 64, 64),
        kind="device",
        uses=[WGMMA, "tensormap.replace"],
        under=EVERY_POLICY,
    ),
    case(90, matmul_descriptors, dtype=E5M2, block=(64, 128, 64), kind="device", warps=8, stages=4, uses=["tensormap.replace"]),
    case(90, matmul_descriptors, dtype=BF16, block=(64, 64, 64), kind="persistent", uses=[WGMMA, TMA], under=EVERY_POLICY),
    case(90, matmul_descriptors, dtype=E4M3, block=(64, 64, 128), kind="persistent", flatten=False, stages=4, uses=[WGMMA, TMA]),
    case(90, matmul_descriptors, dtype=BF16, block=(128, 128, 64), ctas=2, uses=[WGMMA, TMA]),
    case(90, matmul_descriptors, dtype=FP16, block=(64, 64, 64), kind="device", ctas=2, uses=[WGMMA, "tensormap.replace"]),
    case(
        90,
        matmul_descriptors,
        dtype=FP16,
        block=(64, 64, 64),
        specialize=True,
        uses=[WGMMA, TMA, SPECIALISED],
        under=EVERY_POLICY,
        reports=[TWO_WARPGROUPS_STORE],
    ),
    case(90, matmul_scaled, kinds=("e4m3", "e2m1"), block=(64, 64, 128), stages=2, uses=[WGMMA]),
    case(90, attention, dtype=FP16, head=64, block=(64, 64), causal=True, stages=2, uses=[WGMMA], under=EVERY_POLICY),
    case(90, attention, dtype=BF16, head=64, block=(128, 64), warps=8, uses=[WGMMA]),
    case(90, attention, dtype=FP16, head=64, block=(64, 64), descriptors=True, uses=[WGMMA, TMA], under=EVERY_POLICY),
    case(
        90,
        attention,
        dtype=FP16,
        head=64,
        block=(64, 64),
        descriptors=True,
        specialize=True,
        uses=[WGMMA, TMA, SPECIALISED],
        reports=[TWO_WARPGROUPS_STORE],
    ),
    case(100, matmul_pointers, dtype=FP16, block=(128, 64, 64), uses=[TCGEN05], under=EVERY_POLICY),
    case(100, matmul_pointers, dtype=E4M3, block=(128, 128, 64), warps=8, stages=4, uses=["kind::f8f6f4"]),
    case(100, matmul_pointers, dtype=BF16, block=(64, 64, 64), stages=2, uses=[TCGEN05]),
    case(100, matmul_pointers, dtype=FP32, block=(128, 64, 32), uses=["kind::tf32"]),
    case(100, matmul_pointers, dtype=E5M2, block=(128, 64, 128), layout="nn", uses=[TCGEN05]),
    case(100, matmul_pointers, dtype=BF16, block=(256, 64, 32), warps=8, layout="tt", stages=1, uses=[TCGEN05]),
    case(100, matmul_pointers, dtype=FP16, block=(128, 128, 32), ctas=2, uses=[TCGEN05]),
    case(
        100,
        matmul_pointers,
        dtype=FP32,
        block=(64, 64, 32),
        precision="tf32x3",
        stages=2,
        uses=["kind::tf32"],
        under=EVERY_POLICY,
        defined=False,
        reports=[TENSOR_MEMORY_WITHOUT_WAIT],
    ),
    case(100, matmul_pointers, dtype=FP16, block=(16, 16, 32), stages=2, uses=[MMA]),  # too small for tcgen05
    case(100, matmul_pointers, dtype=INT8, block=(128, 64, 64), uses=["kind::i8"]),
    case(100, matmul_batched, dtype=BF16, warps=2),
    case(100, matmul_split, dtype=BF16, block=(128, 64, 64), uses=[TCGEN05]),
    case(100, matmul_quantized, dtype=BF16, block=(128, 64, 64), uses=[TCGEN05]),
    case(100, matmul_descriptors, dtype=FP16, block=(128, 64, 64), uses=[TCGEN05, TMA], under=EVERY_POLICY),
    case(100, matmul_descriptors, dtype=FP32, block=(128, 64, 32), uses=[TCGEN05, TMA]),
    case(100, matmul_descriptors, dtype=E4M3, block=(128, 64, 64), kind="device", warps=8, uses=[TCGEN05, "tensormap.replace"]),
    case(100, matmul_descriptors, dtype=BF16, block=(128, 64, 64), kind="persistent", stages=2, uses=[TCGEN05, TMA]),
    case(
        100,
        matmul_descriptors,
        dtype=E4M3,
        block=(128, 64, 64),
        specialize=True,
        stages=4,
        uses=[TCGEN05, SPECIALISED],
        under=EVERY_POLICY,
        reports=[INVALIDATED_EARLY],
    ),
    case(
        100,
        matmul_descriptors,
        dtype=FP16,
        block=(128, 64, 64),
        kind="persistent",
        specialize=True,
        uses=[TCGEN05, SPECIALISED],
        under=EVERY_POLICY,
    ),
    case(100, matmul_scaled, kinds=("e4m3", "e5m2"), block=(128, 64, 128), uses=["kind::mxf8f6f4"], under=EVERY_POLICY),
    case(100, matmul_scaled, kinds=("e2m1", "e2m1"), block=(128, 64, 128), uses=["kind::mxf4"]),
    case(100, matmul_scaled, kinds=("e2m1", "e2m1"), block=(128, 128, 128), vector=16, uses=["kind::mxf4nvf4"]),
    case(100, matmul_scaled, kinds=("e4m3", "e2m1"), block=(128, 64, 128), warps=8, uses=[TCGEN05]),
    case(100, attention, dtype=FP16, head=64, block=(128, 64), causal=True, uses=[TCGEN05], under=EVERY_POLICY),
    case(100, attention, dtype=BF16, head=128, block=(128, 64), warps=8, uses=[TCGEN05]),
    case(
        100,
        attention,
        dtype=FP16,
        head=64,
        block=(128, 64),
        descriptors=True,
        specialize=True,
        uses=[TCGEN05, TMA, SPECIALISED],
        under=EVERY_POLICY,
    ),
    case(120, matmul_pointers, dtype=E4M3, block=(64, 64, 64), uses=[MMA, "e4m3.e4m3"], under=EVERY_POLICY),
    case(120, matmul_pointers, dtype=FP16, block=(64, 64, 32), warps=8, stages=4, uses=[MMA]),
    case(120, matmul_pointers, dtype=INT8, block=(64, 32, 64), stages=2, uses=[MMA]),
    case(120, matmul_descriptors, dtype=BF16, block=(64, 64, 64), uses=[MMA, TMA], under=EVERY_POLICY),
    case(120, matmul_descriptors, dtype=E4M3, block=(64, 64, 64), kind="device", uses=[MMA, "tensormap.replace"]),
    case(120, matmul_descriptors, dtype=FP16, block=(64, 64, 64), kind="persistent", warps=8, uses=[MMA, TMA]),
    case(120, matmul_descriptors, dtype=E4M3, block=(64, 64, 128), specialize=True, uses=[MMA, TMA, SPECIALISED]),
    case(120, matmul_descriptors, dtype=E4M3, block=(64, 64, 128), kind="persistent", specialize=True, uses=[MMA, SPECIALISED]),
    case(120, matmul_pointers, dtype=FP32, block=(64, 32, 32), layout="nt", stages=2, uses=[MMA], shape=(72, 40, 80)),
    case(120, matmul_scaled, kinds=("e4m3", "e5m2"), block=(64, 64, 64), uses=["kind::mxf8f6f4"], under=EVERY_POLICY),
    case(120, matmul_scaled, kinds=("e2m1", "e2m1"), block=(64, 64, 128), warps=8, uses=["kind::mxf4"]),
    case(120, matmul_scaled, kinds=("e2m1", "e2m1"), block=(64, 64, 128), vector=16, stages=2, uses=["scale_vec::4X"]),
    case(120, attention, dtype=FP16, head=64, block=(64, 32), causal=True, warps=8, stages=2, uses=[MMA]),
    case(120, attention, dtype=BF16, head=64, block=(64, 32), descriptors=True, uses=[MMA, TMA]),
]
ROWS = [
    case(80, softmax, dtype=FP32, under=EVERY_POLICY),
    case(80, layer_norm, dtype=FP16, warps=8),
    case(80, weight_gradient, under=EVERY_POLICY),
    case(80, cross_entropy, dtype=BF16, reports=[EVERY_LANE_STORES]),
    case(80, reductions, dtype=FP32, axis=0, under=EVERY_POLICY),
    case(80, reductions, dtype=INT32, axis=1, warps=8),
    case(80, scans, reverse=False),
    case(80, sorting, dtype=INT32),
    case(80, shuffles, dtype=FP32),
    case(80, histogram),
    case(80, atomics, dtype=FP32),
    case(80, casts, dtype=FP32, e4m3=False),
    case(80, dropout),
    case(80, transpose, dtype=INT8, block=(64, 32)),
    case(80, functions),
    case(89, softmax, dtype=BF16, warps=8),
    case(89, quantize_blocks, dtype=BF16, to=E4M3, under=EVERY_POLICY),
    case(89, casts, dtype=FP16),
    case(89, transpose, dtype=E4M3, block=(64, 64)),
    case(89, layer_norm, dtype=FP32, block=1024),
    case(89, reductions, dtype=FP16, axis=1),
    case(89, scans, reverse=False),
    case(89, dropout, warps=8),
    case(90, cross_entropy, dtype=BF16, warps=1),  # nothing crosses warps
    case(90, softmax, dtype=FP16, cols=300),
    case(90, softmax, dtype=FP32, ctas=2),
    case(90, layer_norm, dtype=BF16, under=EVERY_POLICY),
    case(90, weight_gradient, warps=8),
    case(90, cross_entropy, dtype=FP32, block=512, warps=8, reports=[EVERY_LANE_STORES]),
    case(90, reductions, dtype=FP32, axis=1),
    case(90, reductions, dtype=FP32, axis=0, ctas=2, under=EVERY_POLICY),
    case(90, scans, reverse=True, under=EVERY_POLICY),
    case(90, sorting, dtype=FP32, warps=8),
    case(90, shuffles, dtype=FP16, warps=8, under=EVERY_POLICY),
    case(90, histogram, warps=8, bins=128),
    case(90, atomics, dtype=FP16, under=EVERY_POLICY),
    case(90, casts, dtype=BF16),
    case(90, quantize_blocks, dtype=FP32, to=E5M2, warps=8),
    case(90, transpose, dtype=BF16, block=(64, 64), under=EVERY_POLICY),
    case(90, transpose, dtype=FP32, block=(32, 128), ctas=2),
    case(100, softmax, dtype=BF16, under=EVERY_POLICY),
    case(100, layer_norm, dtype=FP32, warps=8),
    case(100, reductions, dtype=BF16, axis=0),
    case(100, reductions, dtype=FP32, axis=1, under=EVERY_POLICY),
    case(100, scans, reverse=False, warps=8),
    case(100, casts, dtype=FP32),
    case(100, quantize_blocks, dtype=BF16, to=E4M3),
    case(100, atomics, dtype=BF16),
    case(100, transpose, dtype=FP16, block=(64, 128), warps=8),
    case(100, shuffles, dtype=BF16),
    case(120, softmax, dtype=FP32, cols=2000, warps=8),
    case(120, layer_norm, dtype=BF16),
    case(120, cross_entropy, dtype=FP16, reports=[EVERY_LANE_STORES], under=EVERY_POLICY),
    case(120, casts, dtype=BF16),
    case(120, quantize_blocks, dtype=FP32, to=E4M3),
    case(120, sorting, dtype=FP16),
    case(120, histogram),
    case(120, weight_gradient),
]
CASES = PRODUCTS + ROWS


def policies() -> Iterator[tuple[Case, tuple[Policy, ...]]]:
    """Each case with the policies that it runs under."""
    turn: dict[int, int] = defaultdict(int)
    for each in CASES:
        if each.under:
            yield each, tuple(each.under)
        else:
            yield each, (EVERY_POLICY[turn[each.target] % len(EVERY_POLICY)],)
            turn[each.target] += 1


@pytest.fixture(autouse=True, scope="module")
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.parametrize(
    ("case", "policies"),
    [pytest.param(c, p, id=str(c)) for c, p in policies()],
)
def test_corpus(case: Case, policies: tuple[Policy, ...]) -> None:
    for policy in policies:
        work, bound = case.bind()
        for opcode in case.uses:
            assert opcode in bound.kernel.ptx
        result = bound.launch(work.grid, policy=policy, check=False)
        found = [(r.kind, r.message) for r in result.reports]
        unexpected = [str(r) for r in result.reports if not any(r.kind == k and re.search(m, r.message) for k, m in case.reports)]
        assert not unexpected, "\n".join(unexpected)
        for kind, message in case.reports:
            assert any(kind == k and re.search(message, m) for k, m in found)
        if case.defined:
            work.check()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_checks_fail_before_the_launch(case: Case) -> None:
    with pytest.raises(AssertionError):
        case.make(**case.settings).check()


def test_every_policy_meets_every_architecture() -> None:
    met = defaultdict(set)
    for each, under in policies():
        met[each.target].update(under)
    assert set(met) == {80, 89, 90, 100, 120}
    assert all(under == set(EVERY_POLICY) for under in met.values())
    assert len(CASES) >= 60
