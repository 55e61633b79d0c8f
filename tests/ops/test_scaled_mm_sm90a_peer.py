"""Hopper's 128 x 128 kernel beside what Triton compiles for the same tile, by the same counters and the same disassembler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import assembled
import emulated
import pytest
import test_scaled_mm_sm90a as sm90a
import torch
from emulated import EmulatedDevice
from ptx_emulator import Result
from ptx_emulator.triton_launch import BoundKernel, bind_triton

pytest.importorskip("triton")
from test_scaled_mm_sm90a import BF16, SCALES, TILES, Problem
from triton.tools.tensor_descriptor import TensorDescriptor
from triton_products import product_by_tma

pytestmark = pytest.mark.skipif(emulated.why_not() is not None, reason=f"emulated: {emulated.why_not()}")
BLOCK = 128


@contextmanager
def bound(problem: Problem) -> Iterator[tuple[BoundKernel, torch.Tensor]]:
    a, b, _, _ = problem.operands()
    out = torch.empty(problem.M, problem.N, dtype=BF16)
    maps = [TensorDescriptor.from_tensor(x, [BLOCK, BLOCK]) for x in (a, b)]
    factor = (SCALES[0] * SCALES[1]).reshape(1)
    arguments = (*maps, TensorDescriptor.from_tensor(out, [BLOCK, BLOCK]), factor, problem.K)
    options = {"BLOCK": BLOCK, "BLOCK_K": 128, "PROMOTE": True, "num_warps": 8, "num_stages": 4}
    yield bind_triton(product_by_tma, arguments, options, target=90), out


def instructions_per_product(kernel: assembled.Assembled) -> float:
    body = assembled.main_loop(kernel)
    return body["total"] / body["QGMMA"]


def wavefronts(result: Result) -> int:
    """Of data: mbarriers are initialised once, and there are more of them the more stages there are."""
    counters, found = result.counters, 0
    for instruction in counters.program:
        if not instruction.name.startswith("mbarrier"):
            at = counters.at(instruction.index)
            found += at.get("shared_load_wavefronts", 0) + at.get("shared_store_wavefronts", 0)
    return found


def test_fewer_instructions_and_no_more_wavefronts_than_triton():
    problem = Problem(BLOCK, BLOCK, 768, out_dtype=BF16)
    with bound(problem) as (peer, out):
        theirs = peer.launch((1, 1))
        if (why := assembled.why_not()) is not None:
            pytest.skip(why)
        their_loop = instructions_per_product(assembled.assemble_ptx(peer.kernel.ptx, "sm_90a")[peer.kernel.kernel.name])
    device = EmulatedDevice("sm_90a")
    result, *_ = sm90a.multiply(device, problem, TILES[1].index, splits=1, cluster=1)
    assert torch.equal(result, out), "both promote every 128 of K and round once"
    ours = device.results[0]
    our_loop = instructions_per_product(sm90a.kernels()["mpk_scaled_mm_sm90a_128x128_e4m3_e4m3"])
    print(f"main loop, instructions per QGMMA: {our_loop:.1f}, Triton {their_loop:.1f}")
    assert our_loop <= their_loop
    waves = [wavefronts(ours), wavefronts(theirs)]
    print(f"wavefronts of shared memory: {waves[0]}, Triton {waves[1]}")
    assert waves[0] <= waves[1]
    assert ours.counters["wgmma"] == theirs.counters["wgmma"]
