"""Matrix descriptors: layouts against the canonical ones of CUTLASS, written as shapes and strides; findings."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from . import reports
from .matrix_descriptor import OperandTile, Tile, addresses, decode
from .syntax import PTXError
from .testing import run_text

MODES = {"none": 0, "128": 2, "64": 4, "32": 6}
WIDTH = {"none": 1, "128": 8, "64": 4, "32": 2}  # 16-byte units of a row of the pattern


def encode(start: int, leading: int, stride: int, mode: int, base: int = 0, family: str = "wgmma") -> int:
    bits = (start & 0x3FFFF) >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base << 49 | mode << 61
    return bits | 1 << 46 if family == "tcgen05" else bits


def xor_bits(address: int, bits: int) -> int:
    """Swizzle<bits, 4, 3> of CUTLASS: bit 4 + i becomes itself xor bit 7 + i."""
    for i in range(bits):
        address ^= (address >> (7 + i) & 1) << (4 + i)
    return address


def canonical(swizzle: str, mn_major: bool, element: int, row: int, k: int, start: int, leading: int, stride: int) -> int:
    """The byte address of element (row, k), by the layouts in the comments of CUTLASS's make_gmma_desc, in units of 16 bytes."""
    w, lbo, sbo, unit = WIDTH[swizzle], leading // 16, stride // 16, 16 // element
    if mn_major:
        chunk, k0, k1 = row // unit, k % 8, k // 8
        if swizzle == "none":  # ((1,n),(8,k)):((X,SBO),(1,LBO))
            at = chunk * sbo + k0 + k1 * lbo
        else:  # ((w,n),(8,k)):((1,LBO),(w,SBO))
            at = chunk % w + chunk // w * lbo + k0 * w + k1 * sbo
        within = row % unit * element
    else:
        chunk = k // unit
        if swizzle == "none":  # ((8,n),2):((1,SBO),LBO)
            at = row % 8 + row // 8 * sbo + chunk * lbo
        else:  # ((8,n),2):((w,SBO),1)
            at = row % 8 * w + row // 8 * sbo + chunk
        within = k % unit * element
    return xor_bits(start + 16 * at + within, {"none": 0, "128": 3, "64": 2, "32": 1}[swizzle])


@pytest.mark.parametrize("family", ["wgmma", "tcgen05"])
@pytest.mark.parametrize(("swizzle", "mn_major", "element"), list(product(MODES, [False, True], [1, 2, 4])))
def test_layout_of_a_tile(swizzle, mn_major, element, family):
    start, leading, stride = 9 * 1024, 3072, 2048
    tile = Tile(128, element, mn_major)
    bits = encode(start, leading, stride, MODES[swizzle], family=family)
    pieces = addresses(decode(bits, family), tile)
    memory = np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8)
    got = tile.assemble(memory[pieces[:, None] + np.arange(16)])
    for row, k in product(range(0, 128, 7), range(32 // element)):
        at = canonical(swizzle, mn_major, element, row, k, start, leading, stride)
        np.testing.assert_array_equal(got[row, k * element : (k + 1) * element], memory[at : at + element])


def test_a_k_step_is_32_bytes_more_in_the_start():
    """Rows of 128 bytes, swizzled as TMA does; the steps of 32 bytes are their columns."""
    matrix = np.random.default_rng(0).integers(0, 256, (64, 128), dtype=np.uint8)
    memory = np.zeros(1 << 14, np.uint8)
    for row, chunk in product(range(64), range(8)):
        at = 1024 + row * 128 + (chunk ^ row % 8) * 16
        memory[at : at + 16] = matrix[row, chunk * 16 : chunk * 16 + 16]
    for step in range(4):
        pieces = addresses(decode(encode(1024 + 32 * step, 16, 1024, 2), "wgmma"), Tile(64))
        got = Tile(64).assemble(memory[pieces[:, None] + np.arange(16)])
        np.testing.assert_array_equal(got, matrix[:, 32 * step : 32 * step + 32])


def test_a_base_offset_moves_the_pattern():
    """A tile at 1024 n + 128 b whose rows are permuted by their number in the tile, not by their address."""
    base = 3
    pieces = addresses(decode(encode(1024 + 128 * base, 16, 1024, 2, base), "wgmma"), Tile(64)).reshape(64, 2)
    for row, chunk in product(range(64), range(2)):
        assert pieces[row, chunk] == 1024 + 128 * base + row * 128 + (chunk ^ row % 8) * 16


def test_32_byte_atoms_of_tcgen05():
    tile = Tile(64, 4, True)
    pieces = addresses(decode(encode(2048, 4096, 512, 1, family="tcgen05"), "tcgen05"), tile).reshape(tile.shape)
    for chunk, k in product(range(16), range(8)):
        within = chunk % 8 * 16
        row = k % 4
        at = 2048 + chunk // 8 * 4096 + k // 4 * 512 + row * 128 + ((within // 32 ^ row) * 32 + within % 32)
        assert pieces[chunk, k] == at


@pytest.mark.parametrize(
    ("bits", "family", "message"),
    [
        (encode(1024, 16, 1024, 1), "wgmma", "bit 61 is set"),
        (encode(1024, 16, 1024, 3, family="tcgen05"), "tcgen05", "swizzle mode 3"),
        (encode(1024, 16, 1024, 2), "tcgen05", "is this a descriptor for wgmma?"),
        (encode(1024, 16, 1024, 2, family="tcgen05") | 1 << 52, "tcgen05", "sm_103a"),
        (encode(1024, 16, 1024, 2, family="tcgen05") | 1 << 55, "tcgen05", "bits 53-60"),
    ],
)
def test_fields_that_make_no_sense(bits, family, message):
    with pytest.raises(PTXError, match=message):
        decode(bits, family)


def machine_with_shared_memory(fence: bool, size: int = 16384, written: int = 16384):
    """The state after a kernel in which each thread wrote every 512th byte group of 16, with its number in each word."""
    body = f""".reg .b32 %r<4>; .reg .pred %p; .shared .align 1024 .b8 tile[{size}];
    mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 4; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1;
    LOOP: st.shared.v4.u32 [%r2], {{%r1, %r1, %r1, %r1}}; add.u32 %r2, %r2, 512; add.u32 %r1, %r1, 512;
    setp.lt.u32 %p, %r1, {written}; @%p bra LOOP;
    {"fence.proxy.async;" if fence else ""} ret;"""
    return run_text(body, "", [], keep=True).machine


def findings(bits: int, fence: bool = True, tile: Tile = Tile(64), **how) -> list[str]:  # noqa: B008
    machine = machine_with_shared_memory(fence, **how)
    operand = OperandTile(machine, machine.program[0], 0, bits, "wgmma", tile, "A")
    operand.begin(machine.sanitizer.row(0))
    operand.read()
    operand.end(machine.sanitizer.agent("the instruction"))
    return [f"{r.kind}: {r.message}" for r in machine.log.reports]


def test_reading_a_tile():
    machine = machine_with_shared_memory(True)
    operand = OperandTile(machine, machine.program[0], 0, encode(2048 + 1024, 16, 1024, 2), "wgmma", Tile(64), "A")
    operand.begin(machine.sanitizer.row(0))
    got = operand.read().view(np.uint32)
    for row, word in product(range(64), range(8)):
        place = 2048 + row * 128 + (word // 4 ^ row % 8) * 16  # from the start of the array, which is at 1024
        assert got[row, word] == place
    assert not machine.log.reports


def test_a_good_descriptor_has_no_findings():
    assert not findings(encode(1024, 16, 1024, 2))


def test_reach_beyond_shared_memory():
    (text,) = findings(encode(1024 + 12288, 16, 1024, 2))
    assert text.startswith(f"{reports.OUT_OF_BOUNDS}: A (64 rows, descriptor: start 0x3400, LBO 16, SBO 1024, 128-byte swizzle)")
    assert "byte 16384 of the CTA's shared memory, which has 16384 bytes" in text


def test_a_start_inside_the_pattern():
    (text,) = findings(encode(1024 + 512, 16, 1024, 2))
    assert "repeats every 1024 bytes, and the start is 512 bytes into the pattern: align the tile to 1024 bytes" in text


def test_pieces_on_one_address():
    (text,) = findings(encode(1024, 0, 1024, 0))
    assert "several pieces of the tile lie at one address: look at LBO and SBO" in text


def test_bytes_that_nothing_wrote():
    (text,) = findings(encode(1024, 16, 1024, 2), written=4096)
    assert text.startswith(f"{reports.UNINITIALISED}: asynchronously reads 16 bytes at byte 40")


def test_stores_without_a_proxy_fence():
    (text,) = findings(encode(1024, 16, 1024, 2), fence=False)
    assert text.startswith(f"{reports.PROXY_FENCE}: ")
    assert "without a fence.proxy.async after the write" in text
