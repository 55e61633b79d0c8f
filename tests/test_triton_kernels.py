"""That Triton compiles every launch of the ops to what was meant, for every target: no GPU is needed, and none is asked."""

from __future__ import annotations

import emulated_triton
import pytest

if (WHY_NOT := emulated_triton.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

import gpu_evidence
import triton
import triton_evidence
from assembled_triton import ARCHITECTURES, assemble

each_target = pytest.mark.parametrize("target", ARCHITECTURES)
pytestmark = pytest.mark.slow

# What a block may have. CUDA C++ Programming Guide, technical specifications; CDNA4: the LDS of a compute unit.
SHARED_BYTES = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_103": 227, "sm_120": 99, "gfx950": 160}
MATRIX_INSTRUCTION = {
    "sm_80": r"HMMA\.16816\.F32$",
    "sm_86": r"HMMA\.16816\.F32$",
    "sm_89": r"QMMA\.16832\.F32\.E[45]M[32]\.E[45]M[32]$",
    "sm_90": r"QGMMA\.64x(128|256)x32\.F32\.E[45]M[32]\.E[45]M[32]$",
    "sm_100": r"UTCQMMA$",
    "sm_103": r"UTCQMMA$",
    "sm_120": r"QMMA\.SF\.",
    "gfx950": r"v_mfma_(scale_)?f32_\d+x\d+x\d+_f8f6f4$",
}
ANY_MATRIX_INSTRUCTION = r"[HIQD]MMA|[HQ]GMMA|UTC.*MMA|v_mfma"
# 512 adjacent bytes for a warp: 16 bytes for each of 32 lanes, 8 or more for each of AMD's 64.
WIDE = {
    "load": r"LDG\.E\.128|(global|buffer)_load_dwordx[24]",
    "store": r"STG\.E\.128|(global|buffer)_store_dwordx[24]",
}
STREAMING = ("amax", "quantize", "quantize_current", "unscale_and_check_", "grad_norm_and_check", "adamw_update_", "sgd_update_")
OF_SCALARS = ("norm_kernel", "factors_kernel", "count_kernel")


@each_target
def test_no_kernel_spills(target):
    for made in assemble(target):
        assert (made.spilled, made.stack) == (0, 0), made.case
        assert made.count(r"LDL|STL|scratch_") == 0, made.case


@each_target
def test_shared_memory_fits(target):
    assert max(made.shared for made in assemble(target)) <= SHARED_BYTES[target] << 10


@each_target
def test_products_use_the_instruction_meant_and_no_other(target):
    for made in assemble(target):
        wanted = made.count(MATRIX_INSTRUCTION[target])
        assert (wanted > 0) == made.case.startswith("scaled_mm"), made.case
        assert made.count(ANY_MATRIX_INSTRUCTION) == wanted, made.case


@pytest.mark.parametrize("target", ["sm_89", "sm_90"])
def test_sums_are_promoted_unless_fast(target):
    """Triton may make the addition part of the product, whose accumulator is the tensor core's."""
    for made in assemble(target):
        if made.case.startswith("scaled_mm"):
            assert ("FADD" in made.loop) == ("fast" not in made.case), made.case


@each_target
def test_long_data_moves_in_16_bytes(target):
    """An op's kernels of scalars left out. Byte accesses appear nowhere but in gfx950's tails."""
    for made in assemble(target):
        if target != "gfx950":
            assert made.count(r"(LDG|STG)\.E\.[US]8") == 0 or "quantize" in made.case, made.case
            assert made.count(r"LDG\.E\.[US]8") == 0, made.case
        if made.case.split()[0] in STREAMING and made.kernel not in OF_SCALARS:
            assert made.count(WIDE["load"]) > 0, made.case
        if made.kernel in ("unscale_kernel", "adamw_kernel", "sgd_kernel"):
            assert made.count(WIDE["store"]) > 0, made.case


@pytest.mark.parametrize("target", ["sm_90", "sm_100", "sm_103", "sm_120"])
def test_products_load_by_tma(target):
    for made in assemble(target):
        if made.case.startswith("scaled_mm"):
            assert made.count(r"UTMALDG\.2D") > 0, made.case


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89"])
def test_products_load_asynchronously(target):
    for made in assemble(target):
        if made.case.startswith("scaled_mm"):
            assert made.count(r"LDGSTS.*\.128") > 0, made.case


COUNTED = {f"{case.op}: {case.name}": (case, call) for case, call in triton_evidence.cases()}
PARTIAL = 0.06  # of the bytes: words of the table and scalars, some 1.3 KB that 8 warps read in each program of 32 KB


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
@pytest.mark.parametrize("case", COUNTED)
def test_what_is_moved_is_what_must_be(case, target):
    counts = triton_evidence.count(*COUNTED[case], target)
    assert counts.bytes_ratio <= 1 + PARTIAL
    assert counts.load_sectors == 16
    assert counts.store_sectors in (0, 16)  # of 16-byte stores; codes leave in 4 or 8 bytes a thread


def test_the_page_is_current():
    page = gpu_evidence.half(of_triton=True)
    if f"Triton {triton.__version__};" not in page:
        pytest.skip("the page was made with another Triton")
    assert page == triton_evidence.page(), "run `make gpu-evidence`"
