"""What the multi-tensor CUDA kernels move and execute, for every target: counted in the emulator, and as ptxas assembles them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import assembled
import emulated
import pytest
import torch
from ptx_emulator import Buffer, Result, Struct, launch
from ptx_emulator.compile import compile_cuda

import mpkernels as mp
from mpkernels import native

ROOT = Path(__file__).parents[1]
FILES = {op: f"csrc/ops/{op}/cuda.cu" for op in ("adamw_update", "sgd_update", "unscale_and_check", "grad_norm_and_check")}
every_target = pytest.mark.parametrize("target", emulated.TARGETS)
SECTOR = 32
# Four whole chunks of 16384 elements of an update, two of 32768 of a pass over gradients.
ELEMENTS = 65536
WARPS = 8  # of a CTA
# What ptxas makes of the paths that ordinary operands take (SASS of sm_90a): range check, approximation, refinement, and the
# branch around the other path. Our AdamW has the refinements written out, the classic one has them behind one PTX instruction.
SASS_OF = {"div.rn.f32": 10, "sqrt.rn.f32": 10}


@pytest.fixture
def gpu(target: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[emulated.EmulatedDevice]:
    if (why := emulated.why_not()) is not None:
        pytest.skip(f"emulated: {why}")
    device = emulated.EmulatedDevice(target)
    monkeypatch.setattr(native, "cuda", device)
    monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
    return device


def randn(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0)).to(dtype)


def adamw(grad: torch.dtype = torch.bfloat16, copy: torch.dtype = torch.bfloat16) -> None:
    masters, step = randn(), torch.tensor(7.0)
    params = [torch.empty(ELEMENTS, dtype=copy)]
    scalars = {"inv_loss_scale": torch.tensor(0.5), "found_inf": torch.tensor(0.0)}
    lists = [masters], [randn()], [randn().abs()], [step], params, [randn(grad)]
    mp.adamw_update_(*lists, 1e-2, 0.9, 0.999, 1e-8, 0.05, **scalars, backend="cuda")


def sgd(momentum: float) -> None:
    buffers = [randn()] if momentum else []
    lists = [randn()], buffers, [torch.tensor(1.0)], [torch.empty(ELEMENTS, dtype=torch.bfloat16)], [randn(torch.bfloat16)]
    mp.sgd_update_(*lists, 1e-2, momentum, 0.0, 0.05, backend="cuda")


def unscale(dtype: torch.dtype, factor: float) -> None:
    mp.unscale_and_check_([randn(dtype)], torch.tensor(factor), torch.tensor(0.0), backend="cuda")


def norm(dtype: torch.dtype) -> None:
    mp.grad_norm_and_check([randn(dtype)], torch.tensor(0.5), torch.tensor(0.0), backend="cuda")


# Compulsory bytes an element: (loads, stores).
CASES = {
    "adamw, 16-bit gradient and copy": (adamw, (), (14, 14)),
    "adamw, FP32 gradient": (adamw, (torch.float32,), (16, 14)),
    "sgd with momentum": (sgd, (0.9,), (10, 10)),
    "sgd": (sgd, (0.0,), (6, 6)),
    "unscale bf16": (unscale, (torch.bfloat16, 0.5), (2, 2)),
    "unscale fp16": (unscale, (torch.float16, 0.5), (2, 2)),
    "unscale fp32": (unscale, (torch.float32, 0.5), (4, 4)),
    "check bf16": (unscale, (torch.bfloat16, 1.0), (2, 0)),
    "check fp32": (unscale, (torch.float32, 1.0), (4, 0)),
    "norm bf16": (norm, (torch.bfloat16,), (2, 0)),
    "norm fp16": (norm, (torch.float16,), (2, 0)),
    "norm fp32": (norm, (torch.float32,), (4, 0)),
}


def large_launch(gpu: emulated.EmulatedDevice) -> Result:
    """The one that goes over the elements."""
    return max(gpu.results, key=lambda result: result.counters.warp_instructions)


@every_target
@pytest.mark.parametrize("case", CASES)
def test_traffic_is_the_compulsory(gpu, target, case):
    run, arguments, (loaded, stored) = CASES[case]
    run(*arguments)
    counters = large_launch(gpu).counters
    # A warp loads a sector of scalars for each chunk (an update), or for its whole life (the others): under 1 in 500.
    assert loaded * ELEMENTS // SECTOR <= counters["global_load_sectors"] <= loaded * ELEMENTS // SECTOR + 4 * WARPS
    sums = 8 * 2 if run is norm else 0  # one float64 for each chunk, a sector each
    assert counters["global_store_bytes"] == stored * ELEMENTS + sums
    assert counters["global_store_sectors"] == stored * ELEMENTS // SECTOR + sums // 8
    wide = {int(n) * int(bits) for n, bits in re.findall(r"ld\.global\.v(\d)\.[fub](\d+)", " ".join(counters.mix()))}
    assert wide <= {64, 128}
    narrow = sum(n for name, n in counters.mix().items() if re.match(r"(ld|st)\.global\.(?!v)", name))
    assert narrow <= 6 * WARPS


@every_target
@pytest.mark.parametrize("op", FILES)
def test_no_kernel_spills(target, op):
    if (why := assembled.why_not()) is not None:
        pytest.skip(f"assembled: {why}")
    kernels = assembled.assemble(FILES[op], target)
    assert len(kernels) == {"adamw_update": 40, "sgd_update": 76, "unscale_and_check": 2, "grad_norm_and_check": 3}[op]
    for name, kernel in kernels.items():
        assert kernel.spilled == kernel.stack == 0, name
        assert kernel.registers <= (80 if "_amax" in name else 64), name  # three or four CTAs of 256 threads an SM
        assert kernel.count(r"LDL|STL") == 0, name
    for name in (n for n in kernels if re.fullmatch(r"mpk_(adamw|sgd)_update_.*bf16_bf16(_amax)?(_4k)?", n)):
        states = 3 if "adamw" in name else 2 if "momentum" in name else 1
        # Two vectors at a time and one at the end of a chunk: each 16 bytes of a state, 8 of a gradient and of a copy.
        assert kernels[name].count(r"LDG\.E\.128") == 3 * states, name
        assert kernels[name].count(r"STG\.E\.128") == 3 * states, name
        assert kernels[name].count(r"LDG\.E\.64") == kernels[name].count(r"STG\.E\.64") == 3, name


@every_target
def test_loads_are_on_their_way_before_any_is_used(target):
    """The two vectors of AdamW: eight loads with no arithmetic of floats and no branch between the first and the last."""
    if (why := assembled.why_not()) is not None:
        pytest.skip(f"assembled: {why}")
    codes = assembled.assemble(FILES["adamw_update"], target)["mpk_adamw_update_bf16_bf16"].instructions
    at = [i for i, code in enumerate(codes) if re.match(r"LDG\.E\.(64|128)", code)][:8]
    assert not [code for code in codes[at[0] : at[-1]] if re.match(r"F|MUFU|BRA|BSSY|CALL", code)]


def classic_adamw(target: str) -> Result:
    """benchmarks/gpu/multi_tensor_adamw.cu on the same elements."""
    kernel = compile_cuda(ROOT / "benchmarks/gpu/multi_tensor_adamw.cu", target, emulated.FLAGS)
    lists = [randn(), randn(), randn().abs(), randn(torch.bfloat16), torch.empty(ELEMENTS, dtype=torch.bfloat16)]
    addresses = [word for tensor in lists for word in (tensor, *[0] * 29)]
    scalars = torch.tensor([0.5]), torch.tensor([0.0])
    hyper = (1e-2, 0.9, 0.999, 1e-8, 0.05, 0.5, 0.1)
    layout = "P" * 150 + "q" * 30 + "B" * 320 + "i" * 320 + "PP" + "f" * 7
    params = Struct(layout, *addresses, ELEMENTS, *[0] * (29 + 320 + 320), *scalars, *hyper)
    return launch(kernel["baseline_multi_tensor_adamw"], 1, 512, [params])


def machine_instructions(result: Result) -> int:
    return sum(n * SASS_OF.get(name, 1) for name, n in result.counters.mix().items())


@every_target
def test_adamw_is_leaner_than_the_classic_design(gpu, target):
    adamw()
    ours, classic = large_launch(gpu), classic_adamw(target)
    for name in ("global_load_bytes", "global_load_sectors", "global_store_bytes", "global_store_sectors"):
        assert ours.counters[name] <= classic.counters[name], name
    assert 3 * ours.counters["global_load_requests"] <= classic.counters["global_load_requests"]
    assert machine_instructions(ours) <= machine_instructions(classic)


@every_target
@pytest.mark.parametrize(
    ("intrinsic", "sequence"),
    [
        ("__fsqrt_rn(x[0])", ["MUFU.RSQ", "FMUL.FTZ", "FMUL.FTZ", "FFMA", "FFMA"]),
        ("__fdiv_rn(x[0], x[1])", ["MUFU.RCP", "FFMA", "FFMA", "FFMA", "FFMA", "FFMA"]),
    ],
    ids=["sqrt", "div"],
)
def test_the_written_out_operations_are_those_of_ptxas(tmp_path, target, intrinsic, sequence):
    """docs/numerics.md: AdamW's square root and division take the steps that sqrt.rn and div.rn take for ordinary operands."""
    if (why := assembled.why_not()) is not None:
        pytest.skip(f"assembled: {why}")
    source = tmp_path / "operation.cu"
    source.write_text(f'extern "C" __global__ void operation(float* x) {{ x[2] = {intrinsic}; }}')
    codes = assembled.assemble(str(source), target)["operation"].instructions
    start = next(i for i, code in enumerate(codes) if code == sequence[0])
    found = [code for code in codes[start:] if re.match(r"MUFU|FFMA|FMUL", code)]
    assert found[: len(sequence)] == sequence


def test_more_tensors_than_a_table_of_32_kb(monkeypatch):
    """629 tensors fill a launch's table; the second launch has to find its tensors' scalars behind those of the first."""
    if (why := emulated.why_not()) is not None:
        pytest.skip(f"emulated: {why}")
    gpu = emulated.EmulatedDevice("sm_90a")
    monkeypatch.setattr(native, "cuda", gpu)
    monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
    numbers = randn()[: 3 * 640].view(3, 640)
    updated = [[x.clone().view(1) for x in row] for row in numbers]
    updated[2] = [x.square() for x in updated[2]]
    updated.append([torch.tensor(float(i % 9)) for i in range(640)])
    expected = [[x.clone() for x in tensors] for tensors in updated]
    for lists, backend in ((updated, "cuda"), (expected, "reference")):
        mp.adamw_update_(*lists, [], [x.view(1) for x in randn()[-640:]], 1e-2, 0.9, 0.999, 1e-8, 0.05, backend=backend)
    assert [each.kernel for each in gpu.launches] == ["mpk_adamw_update_prepare", *["mpk_adamw_update_f32_none"] * 2]
    for ours, theirs in zip(updated, expected, strict=True):
        assert torch.equal(torch.stack(ours), torch.stack(theirs))


FAR = 2**34  # elements before those that the far launches below work on


class FarParams(emulated.Params):
    """The parameters of a recorded launch of one tensor, as if its elements followed FAR others.

    A table (csrc/device/tensor_table.h) is the lists' pointers, sizes and first chunks. The first chunk is moved below 0, so that
    CTA 0 takes chunk FAR / chunk_elements; the pointers are moved back, so that this is where the elements are.
    """

    def __init__(self, content: bytes, buffers: list[Buffer], lists: list[int], capacity: int, chunk_elements: int) -> None:
        super().__init__(content, buffers)
        self.lists, self.capacity, self.chunk_elements = lists, capacity, chunk_elements

    def pack(self, address_of: Callable[[Any], int]) -> bytes:
        content = bytearray(super().pack(address_of))

        def add(at: int, size: int, amount: int) -> None:
            value = int.from_bytes(content[at : at + size], "little") + amount
            content[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")

        for i, element_bytes in enumerate(self.lists):
            add(8 * i * self.capacity, 8, -FAR * element_bytes)
        add(8 * len(self.lists) * self.capacity, 8, FAR)
        add(8 * (len(self.lists) + 1) * self.capacity, 4, -FAR // self.chunk_elements)
        return bytes(content)


@every_target
@pytest.mark.parametrize("op", ["adamw_update", "unscale_and_check"])
def test_more_elements_than_32_bits_count(gpu, target, op):
    n = 1000
    if op == "adamw_update":
        masters, averages, squares, grads = (randn()[i * n : (i + 1) * n].clone() for i in range(4))
        written = [masters, averages, squares.abs_(), torch.zeros(n, dtype=torch.bfloat16)]
        tensors = [*written[:3], torch.tensor(7.0), written[3], grads.bfloat16(), torch.empty(8)]
        args = (*([t] for t in tensors[:6]), 1e-2, 0.9, 0.999, 1e-8, 0.05, False, None, None, None, 0.0, None, None, tensors[6])
        gpu_op, layout = "adamw_update_", ([4, 4, 4, 2, 2], 77, 16384)
    else:
        written = [randn()[:n].clone()]
        tensors = [*written, torch.tensor(1 / 3), torch.tensor(0.0)]
        args = (written, *tensors[1:])
        gpu_op, layout = "unscale_and_check", ([4], 193, 32768)
    before = [t.clone() for t in written]
    gpu.call(gpu_op, *args)
    near = [t.clone() for t in written]
    assert not any(torch.equal(a, b) for a, b in zip(near, before, strict=True))
    for tensor, original in zip(written, before, strict=True):
        tensor.copy_(original)
    each = gpu.launches[-1]
    kernel = emulated.module(each.file, target, each.kernel)[each.kernel]
    launch(kernel, each.grid, each.block, [FarParams(each.params, [Buffer(t) for t in tensors], *layout)])
    for far, expected in zip(written, near, strict=True):
        assert torch.equal(far, expected)


def test_the_norm_depends_on_neither_the_gpu_nor_the_alignment(monkeypatch):
    """40 chunks for 8 to 680 CTAs."""
    if (why := emulated.why_not()) is not None:
        pytest.skip(f"emulated: {why}")
    aligned = [row[: 100 + i % 9].clone() for i, row in enumerate(randn()[: 40 * 128].view(40, 128))]
    misaligned = [torch.cat([torch.zeros(1), row])[1:] for row in aligned]
    monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
    norms = set()
    for target in emulated.TARGETS:
        monkeypatch.setattr(native, "cuda", emulated.EmulatedDevice(target))
        for grads in (aligned, misaligned):
            norms.add(mp.grad_norm_and_check(grads, torch.tensor(1 / 3), torch.tensor(0.0), backend="cuda").item())
    assert len(norms) == 1, norms
