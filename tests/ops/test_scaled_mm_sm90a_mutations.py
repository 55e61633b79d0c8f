"""Every barrier, wait, fence and commit of the Hopper kernels is needed: without it the emulator reports, or it is said why not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import emulated
import pytest
import test_scaled_mm_sm90a as sm90a
import torch
from emulated import EmulatedDevice, Facts
from ptx_emulator import EVERY_POLICY, KernelFault, Module, load
from ptx_emulator.compile import cuda_ptx
from test_scaled_mm_sm90a import BF16, FP32, TILES, Problem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}"),
]

SYNCHRONISATION = re.compile(
    r"^[ \t]*(?:@!?%p\d+\s+)?(?P<what>(?:bar|barrier|mbarrier\.(?!init)|fence|wgmma\.(?:fence|commit_group|wait_group)"
    r"|cp\.async\.bulk\.(?:commit_group|wait_group))\b[^;\n]*;)",
    re.MULTILINE,
)


@cache
def kernel_text(name: str) -> str:
    """One kernel as a PTX module of its own, without line numbers: the whole file takes long to parse."""
    ptx = cuda_ptx(emulated.ROOT / sm90a.FILE, "sm_90a", emulated.FLAGS, folders=[emulated.ROOT / "csrc"])
    header, *entries = re.split(r"^(?=\.visible \.entry)", ptx, flags=re.MULTILINE)
    (entry,) = [e for e in entries if e.startswith(f".visible .entry {name}(")]
    text = header + re.split(r"^\s*(?:// \.globl|\.file|\.section)\b", entry, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"^\s*\.loc\b.*$", "", text, flags=re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """A launch in which all synchronisation has something to do: more blocks of K than the ring has stages, several tiles."""

    kernel: str
    problem: Problem
    tile: int
    cluster: int


CASES = {
    "promoted, multicast": Case("128x128", Problem(256, 256, 512, out_dtype=BF16, bias_dtype=FP32), 1, 2),
    "two slices": Case("256x128", Problem(256, 256, 384, out_dtype=BF16, bias_dtype=FP32), 0, 1),
    "one consumer": Case("64x128", Problem(64, 768, 256, out_dtype=FP32, bias_dtype=FP32), 2, 1),
    "fast, added": Case("128x256_fast", Problem(128, 512, 384, accumulate=True, bias_dtype=FP32), 3, 1),
    "swapped": Case("128x16_swapped", Problem(16, 384, 512, out_dtype=BF16, bias_dtype=FP32), 5, 1),
    "by elements": Case("128x64_swapped", Problem(64, 257, 512, out_dtype=BF16, bias_dtype=FP32), 4, 1),
}
# What no launch here can show, and why it stays.
HARMLESS = {
    "fence.mbarrier_init.release.cluster;": "the barrier of the block or cluster that follows orders the same for these CTAs",
    "barrier.cluster.": "without clusters it is not reached",
}


def without(text: str, found: re.Match[str]) -> Module:
    """A wait on an mbarrier becomes one that has succeeded."""
    waits = re.match(r"mbarrier\.try_wait\S*\s+(\w+),", found["what"])
    instead = f"setp.eq.u32 {waits[1]}, 0, 0;" if waits else ""
    return load(text[: found.start("what")] + instead + text[found.end("what") :])


def report(case: Case, module: Module, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the emulator says under any policy, or that a result is wrong; None if all is well."""
    monkeypatch.setattr(emulated, "module", lambda file, target: module)
    for policy in EVERY_POLICY:
        try:
            sm90a.assert_product(*sm90a.multiply(EmulatedDevice("sm_90a", policy), case.problem, case.tile, 1, case.cluster), case.problem)
        except KernelFault as fault:
            return str(fault)
        except AssertionError as wrong:
            return str(wrong)
    return None


@pytest.mark.parametrize("name", CASES)
def test_nothing_can_be_left_out(name, monkeypatch):
    case = CASES[name]
    monkeypatch.setitem(emulated.TARGETS, "sm_90a", Facts(90, case.cluster, 50 << 20, sm90a.SHARED_LIMIT, 32764))
    text = kernel_text(f"mpk_scaled_mm_sm90a_{case.kernel}_e4m3_e4m3")
    assert report(case, load(text), monkeypatch) is None
    found = list(SYNCHRONISATION.finditer(text))
    assert len(found) > 12
    unseen = [m["what"] for m in found if report(case, without(text, m), monkeypatch) is None]
    print(name, len(found), unseen)
    assert [what for what in unseen if not what.startswith(tuple(HARMLESS))] == []
