"""That the CUDA kernels are what they were meant to be: SASS, traffic, peers; and that docs/gpu-evidence.md is current."""

from __future__ import annotations

import re

import assembled
import emulated
import gpu_evidence
import numpy as np
import pytest
import torch
from gpu_evidence import FILES, TARGETS
from ptx_emulator import Buffer, Policy, Struct, launch
from ptx_emulator.compile import compile_cuda, nvcc_version

import mpkernels as mp
from mpkernels.ops.quantize import new_codes

if (WHY_NOT := assembled.why_not() or emulated.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

each_file = pytest.mark.parametrize("file", FILES)
each_target = pytest.mark.parametrize("target", TARGETS)
CASES = {f"{case.op}: {case.name}": case for case in gpu_evidence.cases()}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
WIDE_SECTORS = 512 / 32  # of a warp's 16-byte accesses to adjacent memory
QUANTIZE = "csrc/ops/quantize/cuda.cu"


@each_file
@each_target
def test_no_kernel_spills_or_has_a_stack(file, target):
    for name, kernel in assembled.assemble(file, target).items():
        assert (kernel.spilled, kernel.stack, kernel.count("LDL|STL")) == (0, 0, 0), name


@each_target
def test_quantize_loads_and_stores_16_bytes(target):
    """8 loads a thread (16 for fp32), of which the ragged loop has one more, and 4 stores for each output."""
    for name, kernel in assembled.assemble(QUANTIZE, target).items():
        loads = 16 if "_f32_" in name else 8
        stores = 8 if name.endswith("_both") else 4
        assert kernel.count(r"LDG\.E\.(NA\.)?128") == loads + 1, name
        assert kernel.count(r"STG\.E\.128") == stores, name


@each_target
def test_quantize_converts_as_the_target_does_best(target):
    for name, kernel in assembled.assemble(QUANTIZE, target).items():
        converts = kernel.count(r"F2FP\.SATFINITE")
        assert converts == 0 if target == "sm_80" else converts >= 32, name
        assert kernel.count(r"F2F\.F64\.F32|F2F\.F32\.F64") <= 2, f"{name} rounds through float64"  # the scale's own


@each_case
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_what_is_moved_is_what_must_be(case, target):
    counts = gpu_evidence.count(case, target)
    assert 1 <= counts.bytes_ratio <= case.largest_ratio
    assert counts.load_sectors == (WIDE_SECTORS if case.elements else 0)
    assert counts.store_sectors in (0, WIDE_SECTORS)
    assert counts.conflicts == 0


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(("columns", "access"), [(504, r"\.v4\.u32"), (500, r"\.v2\.u32"), (502, r"\.u32"), (501, r"\.u16")])
def test_quantize_at_ragged_edges(target, columns, access):
    """Reads each element once, as wide as its rows allow, but for what is left of them; all stores are 16 bytes."""
    x = torch.randn(200, columns).bfloat16()
    q, q_t = new_codes(x, torch.float8_e4m3fn, True)
    device = emulated.EmulatedDevice(target, Policy())
    device.quantize(x, torch.tensor(3.0), True, q, q_t, torch.empty(()))
    counters = device.results[0].counters

    def moved(what: str, suffix: str) -> int:
        named = [i.index for i in counters.program if re.fullmatch(rf"[\w.:]*global(\.nc)?(\.L1::\w+)?{suffix}", i.name)]
        return sum(counters.at(index).get(f"global_{what}_bytes", 0) for index in named)

    rest = 200 * (columns % 8) * 2
    expected = {access: x.nbytes - rest, r"\.u16": rest} if rest and access != r"\.u16" else {access: x.nbytes}
    assert {suffix: moved("load", suffix) for suffix in expected} == expected
    codes = q.untyped_storage().nbytes() + q_t.untyped_storage().nbytes()
    assert moved("store", r"\.v4\.u32") == counters["global_store_bytes"] == codes


def cast_transpose(x: torch.Tensor, quant_scale: float, target: str):
    """The classic kernel's results and counters."""
    rows, columns = x.shape
    module = compile_cuda(emulated.ROOT / "benchmarks/gpu/cast_transpose.cu", target)
    q, q_t = np.zeros((rows, columns), np.uint8), np.zeros((columns, rows), np.uint8)
    amax, by = np.zeros(1, np.int32), np.array([quant_scale], np.float32)
    params = Struct("PPPPPqq", x, Buffer(q, "q", False), Buffer(q_t, "q_t", False), by, amax, rows, columns)
    result = launch(module["cast_transpose"], (columns // 32, rows // 32), (32, 8), [params], policy=Policy())
    return q, q_t, amax.view(np.float32)[0], result.counters


@pytest.mark.parametrize("target", ["sm_89", "sm_90a", "sm_100a", "sm_120a"])
def test_quantize_moves_and_executes_less_than_the_classic_design(target):
    case = CASES["quantize: bf16 -> E4M3, q and q_t"]
    x, quant_scale, _, q, q_t, amax = case.args
    ours = gpu_evidence.count(case, target, in_place=True)
    classic_q, classic_q_t, classic_amax, classic = cast_transpose(x, quant_scale.item(), target)
    assert np.array_equal(q.view(torch.uint8), classic_q)
    assert np.array_equal(q_t.view(torch.uint8), classic_q_t)
    assert amax.item() == classic_amax
    sectors = classic["global_load_sectors"] + classic["global_store_sectors"]
    assert ours.bytes_ratio * case.compulsory <= 32 * sectors
    assert ours.instructions <= 32 * classic.warp_instructions / case.elements
    requests = classic["global_load_requests"] + classic["global_store_requests"]
    assert case.compulsory / 512 + ours.narrow_requests < requests / 8


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_offsets_beyond_32_bits(target, transpose):
    """The last tile of 2^32 elements. Only its part of each tensor is emulated (and touched), at its distance from the base."""
    rows, columns, tile = 2**17, 2**15, 128
    x, q = torch.empty(rows, columns, dtype=torch.bfloat16), torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    q_t = torch.empty(columns, rows, dtype=torch.float8_e4m3fn) if transpose else q[:0, :0]
    quant_scale, amax = torch.tensor(3.0), torch.zeros(())
    ops = torch.ops.mpkernels_cuda
    ops.start_recording(*vars(emulated.TARGETS[target]).values())
    ops.quantize(x, quant_scale, transpose, q, q_t, amax)
    each = emulated.Launch.parse(ops.stop_recording().splitlines()[-1])
    assert each.grid == (rows * columns // tile**2, 1, 1)
    if transpose:
        corner = (slice(-tile, None), slice(-tile, None))
        parts = [(x, x[corner]), (q, q[corner]), (q_t, q_t[corner])]
    else:
        parts = [(x, x.view(-1)[-(tile**2) :]), (q, q.view(-1)[-(tile**2) :])]
    values = torch.randn(parts[0][1].shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    parts[0][1].copy_(values)
    buffers = [Buffer(whole, f"tensor {i}", part=part) for i, (whole, part) in enumerate(parts)]
    params = emulated.Params(each.params, [Buffer(quant_scale), Buffer(amax), *buffers])
    kernel = emulated.module(each.file, target, each.kernel)[each.kernel]
    launch(kernel, each.grid, each.block, [params], ctas=[each.grid[0] - 1])
    expected = mp.quantize(values, quant_scale, transpose=transpose, backend="reference")
    assert torch.equal(parts[1][1].view(torch.uint8), expected.q.view(torch.uint8))
    assert amax == values.abs().max()
    if transpose:
        assert torch.equal(parts[2][1].view(torch.uint8), expected.q_t.view(torch.uint8))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_amax_at_offsets_beyond_32_bits(target, dense):
    """The last blocks of a grid that takes one step over 2^32 elements, or over the first 1000 of every row of them."""
    whole, amax = torch.empty(2**17, 2**15, dtype=torch.bfloat16), torch.zeros(())
    x = whole if dense else whole[:, :1000]
    ops = torch.ops.mpkernels_cuda
    ops.start_recording(*vars(emulated.TARGETS[target]).values())
    ops.amax(x, amax)
    each = emulated.Launch.parse(ops.stop_recording().splitlines()[-1])
    warps = each.block[0] // 32
    # A warp takes 2 KB, or a row; dense memory has one piece more, for the case that it begins in the middle of 16 bytes.
    part, blocks = (whole.view(-1)[-warps * 1024 :], 2**22 // warps + 1) if dense else (x[-2 * warps :], 2**17 // warps)
    part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(0)))
    params = emulated.Params(each.params, [Buffer(amax), Buffer(x, part=part)])
    kernel = emulated.module(each.file, target, each.kernel)[each.kernel]
    launch(kernel, blocks, each.block, [params], ctas=[blocks - 2, blocks - 1])
    assert amax == part.abs().max()


@pytest.mark.slow
def test_the_page_is_current():
    page = gpu_evidence.half(of_triton=False)
    if nvcc_version().strip() not in page:
        pytest.skip("the page was made with another nvcc")
    assert page == gpu_evidence.page(), "run `make gpu-evidence`"
