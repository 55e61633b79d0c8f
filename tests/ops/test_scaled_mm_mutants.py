"""Nothing of the synchronisation of scaled_mm's CUDA kernels can be left out.

The emulator notices each barrier, wait, fence, commit and arrival that is deleted, and each wrong expect_tx, or it is said here
why it need not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import emulated
import pytest
import test_scaled_mm as contract
import test_scaled_mm_mma as mma
import test_scaled_mm_sm90a as sm90a
import torch
from emulated import EmulatedDevice
from ptx_emulator import EVERY_POLICY, KernelFault, Module, Policy
from ptx_emulator.mutation import Mutant, mutants, statements
from ptx_emulator.parse import parse
from test_scaled_mm_sm90a import Problem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}"),
]

DELETIONS = ("barrier", "wait", "fence", "commit", "expect_tx", "arrivals")
BF16, FP32 = torch.bfloat16, torch.float32
E4M3 = contract.E4M3


@dataclass(frozen=True)
class Case:
    """A launch with work for all synchronisation: more blocks of K than the ring has stages, several tiles, three panels.

    multiply: raises if the product is wrong. idle: how a statement begins that is executed but has nothing to do here, unlike in
    the other cases.
    """

    target: str
    file: str
    entry: str
    multiply: Callable[[EmulatedDevice], None]
    sm_count: int = 1
    idle: str = "none"

    def device(self, module: Module, policy: Policy | None = None) -> EmulatedDevice:
        return EmulatedDevice(self.target, policy, sm_count=self.sm_count, module=lambda *_: module)

    @property
    def ptx(self) -> str:
        """Without the places in the source: a third of what there is to parse."""
        return re.sub(r"^\s*\.loc\b.*$", "", emulated.kernel_ptx(self.file, self.target, self.entry), flags=re.MULTILINE)


def hopper(tile: int, problem: Problem, cluster: int = 1, idle: str = "none") -> Case:
    def multiply(device: EmulatedDevice) -> None:
        sm90a.assert_product(*sm90a.multiply(device, problem, tile, 1, cluster), problem)

    entry = f"mpk_scaled_mm_sm90a_{sm90a.TILES[tile].name}_e4m3_e4m3"
    return Case("sm_90a", sm90a.FILE, entry, multiply, sm_count=cluster, idle=idle)


def by_mma(target: str, tile: str, accum: str, last_step: int) -> Case:
    M, N = mma.TILES[tile]
    K = 5 * mma.DEPTH + last_step

    def multiply(device: EmulatedDevice) -> None:
        a, b = contract.random_fp8(M, K, dtype=E4M3, seed=1), contract.random_fp8(N, K, dtype=E4M3, seed=2)
        bias, out = torch.linspace(-1, 1, N), torch.ones(M, N, dtype=BF16)
        before = out.clone()
        device.scaled_mm(a, b, *contract.scales(), bias, out, True, False, None)
        contract.assert_is_product(out, a, b, *contract.scales(), bias, before)

    file = f"csrc/ops/scaled_mm/{mma.FILES[target]}.cu"
    return Case(target, file, mma.kernel_name(target, tile, accum, E4M3, E4M3), multiply)


CASES = {
    "sm_90a, promoted, multicast": hopper(1, Problem(256, 256, 512, out_dtype=BF16, bias_dtype=FP32), cluster=2),
    "sm_90a, two slices": hopper(0, Problem(256, 256, 384, out_dtype=BF16, bias_dtype=FP32)),
    "sm_90a, one consumer": hopper(2, Problem(64, 768, 256, bias_dtype=FP32)),
    "sm_90a, fast, added": hopper(3, Problem(128, 768, 384, bias_dtype=FP32, accumulate=True)),
    "sm_90a, swapped": hopper(5, Problem(16, 384, 512, out_dtype=BF16, bias_dtype=FP32)),
    "sm_90a, by elements": hopper(4, Problem(64, 385, 512, out_dtype=BF16, bias_dtype=FP32), idle="cp.async.bulk.wait_group"),
    "sm_80": by_mma("sm_80", "16x64", "fast", 48),
    "sm_89": by_mma("sm_89", "64x64", "promote", 0),
    "sm_120a": by_mma("sm_120a", "128x128", "promote", 48),
}
# By how the deleted instruction begins.
NEED_NOT_BE_SEEN = {
    "fence.mbarrier_init": "the barrier of the block or of the cluster that follows orders the same for threads and for TMA"
    " issued after it; the PTX ISA asks for the fence where other CTAs are to see it",
}


def verdict(case: Case, ptx: str, policies: tuple[Policy, ...] = EVERY_POLICY) -> str | None:
    """What the emulator says under any of the policies, or that a result is wrong; None if all is well."""
    module = Module(parse(ptx))
    for policy in policies:
        try:
            case.multiply(case.device(module, policy))
        except KernelFault as fault:
            return str(fault)
        except AssertionError as wrong:
            return str(wrong)
    return None


@cache
def executed(name: str) -> set[int]:
    """Lines of the instructions that the case reaches: the others' mutants are the other cases' business."""
    device = CASES[name].device(Module(parse(CASES[name].ptx)))
    CASES[name].multiply(device)
    counters = device.results[0].counters
    return {each.line for each, n in zip(counters.program, counters.instructions, strict=True) if n}


def deletions(case: Case) -> list[Mutant]:
    """Initialising with another number of arrivals is not a deletion, and there are dozens."""
    return [m for m in mutants(case.ptx, case.entry) if m.mutator in DELETIONS and not m.before.startswith("mbarrier.init")]


@pytest.mark.parametrize("name", CASES)
def test_nothing_can_be_left_out(name):
    """What is known not to be seen is tried under one policy, to save time."""
    case = CASES[name]
    assert verdict(case, case.ptx) is None
    tried = [m for m in deletions(case) if m.line in executed(name)]
    assert len(tried) >= 8
    explained = [m for m in tried if m.before.startswith((case.idle, *NEED_NOT_BE_SEEN))]
    assert [str(m) for m in tried if m not in explained and verdict(case, m.ptx) is None] == []
    one = EVERY_POLICY[list(CASES).index(name) % len(EVERY_POLICY)]
    assert [str(m) for m in explained if verdict(case, m.ptx, (one,)) is not None] == []


def test_every_deletion_is_reached_by_some_case():
    """The kernels of a file are instances of one template: what one case cannot reach is reached in another's kernel."""
    reached: set[tuple[str, str]] = set()
    wanted: set[tuple[str, str]] = set()
    for name, case in CASES.items():
        for m in deletions(case):
            statement = next(s.name for s in statements(m.before and f".entry x() {{ {m.before} }}", "x"))
            wanted.add((case.file, statement))
            if m.line in executed(name):
                reached.add((case.file, statement))
    assert wanted == reached
