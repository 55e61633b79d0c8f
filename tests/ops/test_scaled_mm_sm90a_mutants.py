"""Nothing of the Hopper kernels' synchronisation can be left out.

The emulator notices each barrier, wait, fence, commit and arrival that is deleted, and each wrong expect_tx, or it is said here
why it need not.
"""

from __future__ import annotations

from dataclasses import dataclass

import emulated
import pytest
import test_scaled_mm_sm90a as sm90a
import torch
from emulated import EmulatedDevice, Facts
from ptx_emulator import EVERY_POLICY, KernelFault, Module, load
from ptx_emulator.mutation import Mutant, mutants, statements
from test_scaled_mm_sm90a import Problem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}"),
]

DELETIONS = ("barrier", "wait", "fence", "commit", "expect_tx", "arrivals")
BF16, FP32 = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """A launch with work for all synchronisation: more blocks of K than the ring has stages, several tiles, three panels."""

    tile: int
    problem: Problem
    cluster: int = 1
    idle: str = "none"  # how a statement begins that is executed but has nothing to do here, unlike in the other cases


CASES = {
    "promoted, multicast": Case(1, Problem(256, 256, 512, out_dtype=BF16, bias_dtype=FP32), cluster=2),
    "two slices": Case(0, Problem(256, 256, 384, out_dtype=BF16, bias_dtype=FP32)),
    "one consumer": Case(2, Problem(64, 768, 256, bias_dtype=FP32)),
    "fast, added": Case(3, Problem(128, 768, 384, bias_dtype=FP32, accumulate=True)),
    "swapped": Case(5, Problem(16, 384, 512, out_dtype=BF16, bias_dtype=FP32)),
    "by elements": Case(4, Problem(64, 385, 512, out_dtype=BF16, bias_dtype=FP32), idle="cp.async.bulk.wait_group"),
}
# By how the deleted instruction begins.
NEED_NOT_BE_SEEN = {
    "fence.mbarrier_init": "the barrier of the block or of the cluster that follows orders the same for threads and for TMA"
    " issued after it; the PTX ISA asks for the fence where other CTAs are to see it",
}


def verdict(case: Case, module: Module, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the emulator says under any policy, or that a result is wrong; None if all is well."""
    monkeypatch.setattr(emulated, "module", lambda *_: module)
    for policy in EVERY_POLICY:
        try:
            device = EmulatedDevice("sm_90a", policy)
            sm90a.assert_product(*sm90a.multiply(device, case.problem, case.tile, 1, case.cluster), case.problem)
        except KernelFault as fault:
            return str(fault)
        except AssertionError as wrong:
            return str(wrong)
    return None


def executed(ptx: str, entry: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Lines of the instructions that the case reaches: the others' mutants are the other cases' business."""
    monkeypatch.setattr(emulated, "module", lambda *_: load(ptx))
    device = EmulatedDevice("sm_90a")
    sm90a.multiply(device, case.problem, case.tile, 1, case.cluster)
    counters = device.results[0].counters
    return {each.line for each, n in zip(counters.program, counters.instructions, strict=True) if n}


def deletions(ptx: str, entry: str) -> list[Mutant]:
    """Initialising with another number of arrivals is not a deletion, and there are dozens."""
    return [m for m in mutants(ptx, entry) if m.mutator in DELETIONS and not m.before.startswith("mbarrier.init")]


@pytest.mark.parametrize("name", CASES)
def test_nothing_can_be_left_out(name, monkeypatch):
    case = CASES[name]
    monkeypatch.setitem(emulated.TARGETS, "sm_90a", Facts(90, case.cluster, 50 << 20, sm90a.SHARED_LIMIT, 32764))
    entry = f"mpk_scaled_mm_sm90a_{sm90a.TILES[case.tile].name}_e4m3_e4m3"
    ptx = emulated.kernel_ptx(sm90a.FILE, "sm_90a", entry)
    reached = executed(ptx, entry, case, monkeypatch)
    assert verdict(case, load(ptx), monkeypatch) is None
    tried = [m for m in deletions(ptx, entry) if m.line in reached]
    assert len(tried) > 10
    unseen = [m for m in tried if verdict(case, load(m.ptx), monkeypatch) is None]
    assert [str(m) for m in unseen if not m.before.startswith((case.idle, *NEED_NOT_BE_SEEN))] == []


def test_every_deletion_is_reached_by_some_case(monkeypatch):
    """The kernels are instances of one template: a statement that one case cannot reach is reached in another's kernel."""
    reached: set[str] = set()
    wanted: set[str] = set()
    for case in CASES.values():
        monkeypatch.setitem(emulated.TARGETS, "sm_90a", Facts(90, case.cluster, 50 << 20, sm90a.SHARED_LIMIT, 32764))
        entry = f"mpk_scaled_mm_sm90a_{sm90a.TILES[case.tile].name}_e4m3_e4m3"
        ptx = emulated.kernel_ptx(sm90a.FILE, "sm_90a", entry)
        lines = executed(ptx, entry, case, monkeypatch)
        for m in deletions(ptx, entry):
            name = next(s.name for s in statements(m.before and f".entry x() {{ {m.before} }}", "x"))
            wanted.add(name)
            if m.line in lines:
                reached.add(name)
    assert wanted == reached
