"""Kernels that a static verifier can prove free of races, and that it notices where a barrier is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import assembled_triton
import emulated
import emulated_triton
import pytest
import static_verifier
import torch
from ptx_emulator import Policy, load
from ptx_emulator.triton_launch import BoundKernel, bind_triton
from static_verifier import Subject, scalar_arguments, verify

import mpkernels as mp
from mpkernels import native, triton_launch

if (WHY_NOT := static_verifier.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

ONE, E4M3 = torch.ones(()), torch.float8_e4m3fn
# A branch that depends on values is taken one way: proofs with it cover that way only.
ONE_WAY = ("representative_branches",)


def is_barrier(line: str) -> bool:
    return re.match(r"\s*(bar\.sync|barrier\.sync)\s", line) is not None


def is_wait(line: str) -> bool:
    return is_barrier(line) or re.match(r"\s*cp\.async\.wait_group\s", line) is not None


def cuda_subject(call: Callable[[], Any], target: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The launch of this kernel among those that the CUDA library records of a call."""
    if (why := emulated.why_not()) is not None:
        pytest.skip(f"emulated: {why}")
    monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
    torch.ops.mpkernels_cuda.start_recording(*vars(emulated.TARGETS[target]).values())
    try:
        call()
    finally:
        recording = torch.ops.mpkernels_cuda.stop_recording()
    launches = map(emulated.Launch.parse, recording.splitlines())
    each = next(each for each in launches if each.kernel == kernel)
    ptx = emulated.kernel_ptx(each.file, target, kernel)
    return Subject(ptx, kernel, each.grid, each.block, each.shared_bytes, each.params)


def bound_launch(call: Callable[[], Any], arch: int, kernel: str) -> tuple[triton_launch.Launch, BoundKernel]:
    """The launch of this kernel among those of a call of the Triton backend: as asked for, and compiled with its arguments."""
    if (why := emulated_triton.why_not()) is not None:
        pytest.skip(why)
    recorder = assembled_triton.Recorder(triton_launch.Target("cuda", arch, 2))
    with triton_launch.using(recorder):
        call()
    each = next(each for each in recorder.launches if each.kernel.__name__ == kernel)
    return each, bind_triton(each.kernel, each.args, {**each.constants, **each.options}, target=arch)


def triton_subject(call: Callable[[], Any], arch: int, kernel: str) -> Subject:
    each, bound = bound_launch(call, arch, kernel)
    ptx = bound.kernel.ptx
    types = re.findall(r"\.param \.(\w+)", ptx[: ptx.index("{")])
    known = scalar_arguments([*bound.arguments, *bound.kernel.scratch], types)
    return Subject(ptx, kernel, each.grid, (bound.kernel.block, 1, 1), bound.kernel.shared_bytes, arguments=known)


def amax() -> None:
    mp.amax(torch.randn(4, 512), backend="cuda")  # one block: more combine their results by atomics, which are not supported


def norm(backend: str) -> None:
    mp.grad_norm_and_check([torch.randn(20_000)], ONE, torch.zeros(()), backend=backend)


def quantize_current() -> None:
    mp.quantize_current(torch.randn(128, 256).bfloat16(), transpose=True, backend="triton")


def product() -> None:
    a, b = (torch.zeros(rows, 256, dtype=torch.uint8).view(E4M3) for rows in (16, 128))
    mp.scaled_mm(a, b, ONE, ONE, backend="triton")


@pytest.mark.parametrize("target", ["sm_80", "sm_90a", "sm_120a"])
def test_amax_of_a_block(target, monkeypatch):
    subject = cuda_subject(amax, target, "mpk_amax_f32", monkeypatch)
    assert verify(subject).result == "race_free"
    # Without it one warp's maximum may be read before another wrote it; the verifier stops at the store of the result.
    assert verify(subject.without_line(is_barrier, 0)).result == "unsupported"


@pytest.mark.parametrize("target", ["sm_80", "sm_120a"])
def test_the_end_of_the_norm(target, monkeypatch):
    subject = cuda_subject(lambda: norm("cuda"), target, "mpk_grad_norm_and_check_finish", monkeypatch)
    assert verify(subject, ONE_WAY).result == "race_free"
    assert verify(subject.without_line(is_barrier, 0), ONE_WAY).result == "potential_race"


def test_quantize_with_a_transpose_in_triton():
    subject = triton_subject(quantize_current, 100, "quantize_tile")
    assert verify(subject).result == "race_free"
    barriers = sum(map(is_barrier, subject.ptx.splitlines()))
    found = [verify(subject.without_line(is_barrier, i)).result for i in range(barriers)]
    assert "potential_race" in found


def test_products_with_asynchronous_copies_in_triton():
    """A barrier or wait that the emulator misses is one without which the verifier has no proof either.

    Some are needless for both: before the first, nothing has been written, and what the epilogue exchanges stays within a warp.
    """
    subject = triton_subject(product, 89, "scaled_mm_pointers")
    assert verify(subject).result == "race_free"
    each, bound = bound_launch(product, 89, "scaled_mm_pointers")
    name, needed = bound.kernel.kernel.name, 0
    for i in range(sum(map(is_wait, subject.ptx.splitlines()))):
        without = subject.without_line(is_wait, i)
        bound.kernel.kernel = load(without.ptx)[name]
        if bound.launch(each.grid, policy=Policy(), check=False).reports:
            needed += 1
            assert verify(without).result == "potential_race", f"wait {i}"
    assert needed >= 5  # copies complete, copies visible to all, buffer free again, drained, epilogue


def test_equal_values_stored_by_all_lanes_count_as_a_race():
    """What Triton makes of a reduction across warps: the emulator, which compares the values, has nothing against it."""
    verdict = verify(triton_subject(lambda: norm("triton"), 89, "norm_kernel"))
    assert verdict.result == "potential_race"
    for race in verdict.races:
        assert {race["first"]["mode"], race["second"]["mode"]} == {"write"}
        assert race["first"]["actor"] // 32 == race["second"]["actor"] // 32  # lanes of one warp
