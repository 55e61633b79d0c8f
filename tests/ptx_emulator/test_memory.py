"""Loads and stores of every space, and what the checks say about the wrong ones."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from .api import Buffer, KernelFault, Struct, launch, load
from .testing import entry, run_text

REGISTERS = ".reg .b32 %r<12>; .reg .b16 %h<4>; .reg .f32 %f<8>; .reg .pred %p<4>; .reg .b64 %rd<12>; mov.u32 %r0, %tid.x;"


def fault(body: str, parameters: str, args: list, **how) -> str:
    with pytest.raises(KernelFault) as caught:
        run_text(REGISTERS + body + " ret;", parameters, args, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "count"),
    [("b8", 1), ("u16", 1), ("b32", 1), ("b64", 1), ("v2.b32", 2), ("v4.b32", 4), ("v2.b64", 2), ("v8.b32", 8)],
)
def test_copies_of_every_width(suffix, count):
    bits = int(suffix.rpartition(".")[2].strip("buv"))
    size = bits // 8 * count
    x = np.random.default_rng(0).integers(0, 256, 32 * size, dtype=np.uint8)
    y = np.zeros_like(x)
    register = {8: "%h", 16: "%h", 32: "%r", 64: "%rd"}[bits]
    names = ", ".join(f"{register}{i + 2 if bits != 16 and bits != 8 else i}" for i in range(count))
    names = "{" + names + "}" if count > 1 else names
    body = f"""ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; mul.wide.u32 %rd11, %r0, {size}; add.s64 %rd0, %rd0, %rd11;
    add.s64 %rd1, %rd1, %rd11; ld.global.{suffix} {names}, [%rd0]; st.global.{suffix} [%rd1], {names};"""
    run_text(REGISTERS + body + " ret;", ".param .u64 x, .param .u64 y", [x, Buffer(y, "y", initialised=False)])
    np.testing.assert_array_equal(x, y)


def test_sign_and_zero_extension():
    x = np.arange(-16, 16, dtype=np.int8)
    out = np.zeros((2, 32), np.int32)
    body = """ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; cvt.u64.u32 %rd2, %r0; add.s64 %rd0, %rd0, %rd2;
    mad.lo.s64 %rd1, %rd2, 4, %rd1;
    ld.global.s8 %r1, [%rd0]; ld.global.u8 %r2, [%rd0]; st.global.u32 [%rd1], %r1; st.global.u32 [%rd1+128], %r2;"""
    run_text(REGISTERS + body + " ret;", ".param .u64 x, .param .u64 y", [x, out])
    np.testing.assert_array_equal(out, [x, x.view(np.uint8)])


def test_generic_addresses_reach_every_space():
    """One instruction, half of the lanes in shared and half in local memory."""
    body = """.shared .align 8 .b8 s[256]; .local .align 8 .b8 l[16];
    ld.param.u64 %rd9, [y]; cvt.u64.u32 %rd2, %r0; shl.b64 %rd2, %rd2, 2; mov.u32 %r4, s; cvt.u64.u32 %rd3, %r4;
    cvta.shared.u64 %rd3, %rd3;
    add.s64 %rd3, %rd3, %rd2; mov.u64 %rd4, l; cvta.local.u64 %rd4, %rd4; setp.lt.u32 %p0, %r0, 16;
    selp.b64 %rd5, %rd3, %rd4, %p0;
    mul.lo.u32 %r5, %r0, 7; st.u32 [%rd5], %r5; ld.u32 %r6, [%rd5]; add.s64 %rd9, %rd9, %rd2; st.global.u32 [%rd9], %r6;"""
    out = np.zeros(32, np.uint32)
    run_text(REGISTERS + body + " ret;", ".param .u64 y", [out])
    np.testing.assert_array_equal(out, 7 * np.arange(32))


def test_constants_and_global_variables_persist():
    header = ".const .align 4 .f32 table[3] = {0f3F800000, 0f40000000, 0f40400000}; .global .align 4 .u32 count = 5;"
    body = """ld.param.u64 %rd9, [y]; mov.u64 %rd1, table; ld.const.f32 %f1, [%rd1+8]; ld.const.f32 %f2, [table+4];
    add.f32 %f1, %f1, %f2;
    st.global.f32 [%rd9], %f1; atom.global.add.u32 %r1, [count], 1; ret;"""
    kernel = load(entry(REGISTERS + body, ".param .u64 y", header=header))["kernel"]
    out = np.zeros(1, np.float32)
    for expected in (37, 69):
        launch(kernel, 1, 32, [out])
        assert kernel.module.variable("count").view(np.uint32)[0] == expected
    assert out[0] == 5.0


def test_tensors_structs_and_views():
    """A bfloat16 tensor view inside a struct, and the same storage twice."""
    x = torch.arange(64, dtype=torch.float32).bfloat16()
    body = """ld.param.u64 %rd0, [p]; ld.param.u64 %rd1, [p+8]; ld.param.u32 %r1, [p+16]; setp.lt.u32 %p0, %r0, %r1;
    mul.wide.u32 %rd2, %r0, 2;
    add.s64 %rd0, %rd0, %rd2; add.s64 %rd1, %rd1, %rd2; @%p0 ld.global.u16 %h0, [%rd0]; @%p0 st.global.u16 [%rd1], %h0; ret;"""
    run_text(REGISTERS + body, ".param .align 8 .b8 p[24]", [Struct("PPi", x[:16], x[32:48], 16)])
    assert torch.equal(x[32:48], x[:16])
    assert x[48] == 48


def test_out_of_bounds_names_the_array():
    x = np.zeros(100, np.float32)
    body = "ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 4; add.s64 %rd0, %rd0, %rd1; ld.global.f32 %f0, [%rd0+384];"
    text = fault(body, ".param .u64 x", [Buffer(x, "weights")])
    assert "out-of-bounds: global load of 4 bytes at 0x7" in text
    assert "0 bytes past the end of weights (400 bytes) [28 times]" in text
    assert "thread (4, 0, 0) of CTA (0, 0, 0)" in text


def test_a_view_is_fenced():
    x = np.zeros(64, np.float32)
    body = "ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 4; add.s64 %rd0, %rd0, %rd1; st.global.f32 [%rd0], 0f3F800000;"
    assert "past the end of" in fault(body, ".param .u64 x", [x[16:40]])
    np.testing.assert_array_equal(x, np.r_[np.zeros(16), np.ones(24), np.zeros(24)])


def test_an_overrun_does_not_end_in_the_next_array():
    x, y = np.zeros(100, np.float32), np.zeros(100000, np.float32)
    body = "ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 1024; add.s64 %rd0, %rd0, %rd1; ld.global.f32 %f0, [%rd0];"
    assert "[31 times]" in fault(body, ".param .u64 x, .param .u64 y", [x, y])


def test_wild_and_null_pointers():
    body = "ld.param.u64 %rd0, [x]; ld.global.f32 %f0, [%rd0];"
    assert "4 bytes at 0x0, which is not near any" in fault(body, ".param .u64 x, .param .u64 y", [None, np.zeros(4)])
    assert "nothing is allocated" in fault(body, ".param .u64 x", [None])
    assert "shared load of 4 bytes at byte -1024" in fault("mov.u32 %r1, 0; ld.shared.u32 %r2, [%r1];", "", [])


def test_misaligned():
    x = np.zeros(1024, np.float32)
    body = """ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 8; add.s64 %rd0, %rd0, %rd1;
    ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%rd0];"""
    text = fault(body, ".param .u64 x", [x])
    assert "misaligned: load of 16 bytes at address" in text
    assert "which is not a multiple of 16" in text
    assert "[16 times]" in text


def test_uninitialised():
    y = np.zeros(32, np.float32)
    body = "ld.param.u64 %rd0, [y]; ld.global.f32 %f0, [%rd0+12];"
    assert "reads 4 bytes at byte 12 of y (128 bytes), which nothing has written" in fault(
        body, ".param .u64 y", [Buffer(y, "y", False)]
    )
    shared = ".shared .align 4 .b8 tile[64]; mov.u32 %r1, tile; st.shared.u32 [%r1], %r0; ld.shared.v2.u32 {%r2, %r3}, [%r1];"
    assert "reads 8 bytes at byte 0 of shared tile (64 bytes), which nothing has written" in fault(shared, "", [], block=1)
    local = ".local .align 4 .b8 a[16]; mov.u64 %rd0, a; ld.local.u32 %r1, [%rd0+4];"
    assert "byte 4 of the thread's local memory" in fault(local, "", [])


def test_stores_to_parameters_are_refused():
    body = "mov.b64 %rd0, x; cvta.param.u64 %rd0, %rd0; st.u32 [%rd0], %r0;"
    assert "store to read-only param memory" in fault(body, ".param .u64 x", [0])


def test_shared_memory_limits():
    body = ".shared .align 4 .b8 s[65536]; mov.u32 %r1, s;"
    assert "65536 bytes of static shared memory; more than 49152 must be dynamic" in fault(body, "", [])
    text = fault(".shared .align 4 .b8 s[16]; mov.u32 %r1, s;", "", [], shared_bytes=120000, target="sm_89")
    assert "uses 120016 bytes of shared memory, sm_89 has 101376" in text


def test_read_only_arrays_may_not_be_written():
    x = np.zeros(32, np.float32)
    x.setflags(write=False)
    body = "ld.param.u64 %rd0, [x]; st.global.f32 [%rd0], 0f3F800000;"
    assert "x is read-only" in fault(body, ".param .u64 x", [Buffer(x, "x")])


def test_launch_refusals():
    kernel = load(entry("ret;", ".param .u32 n"))["kernel"]
    with pytest.raises(ValueError, match="takes 1 arguments, got 0"):
        launch(kernel, 1, 32, [])
    with pytest.raises(ValueError, match="at most 1024 threads"):
        launch(kernel, 1, 2048, [1])
    with pytest.raises(ValueError, match="it has 8 bytes, the kernel takes 4"):
        launch(kernel, 1, 32, [np.float64(1)])


def test_counters_are_exact():
    """Strided loads touch one sector each; a column of a 32-word-wide tile conflicts 32 ways, a padded one does not."""
    x = np.zeros(32 * 8, np.float32)
    body = "ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 32; add.s64 %rd0, %rd0, %rd1; ld.global.f32 %f0, [%rd0];"
    counters = run_text(REGISTERS + body + " ret;", ".param .u64 x", [x]).counters
    assert counters["global_load_bytes"] == 128
    assert counters["global_load_sectors"] == 32
    assert counters["global_load_requests"] == 1
    for pitch, conflicts in ((128, 31), (132, 0), (0, 0), (8, 1)):
        body = f".shared .align 16 .b8 s[8192]; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, {pitch}, %r1; st.shared.u32 [%r1], 1;"
        counters = run_text(REGISTERS + body + " ret;", "", []).counters
        assert counters["shared_store_conflicts"] == conflicts
    body = """.shared .align 16 .b8 s[8192]; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 16, %r1;
    st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};"""
    counters = run_text(REGISTERS + body + " ret;", "", []).counters
    assert counters["shared_store_wavefronts"] == 4
    assert counters["shared_store_conflicts"] == 0
    body = """.shared .align 16 .b8 s[8192]; mov.u32 %r1, s; and.b32 %r2, %r0, 1; mad.lo.u32 %r1, %r2, 128, %r1;
    ld.shared.u32 %r3, [%r1];"""
    body = body.replace("and.b32", "st.shared.u32 [%r1], 0; st.shared.u32 [%r1+128], 0; and.b32")
    assert run_text(REGISTERS + body + " ret;", "", [], block=32).counters["shared_load_wavefronts"] == 2  # two words, one bank
    assert counters.mix()["st.shared.v4.u32"] == 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from Linux's /proc")
def test_many_small_arrays_take_little_memory():
    """Their gaps, in every table that a launch keeps of global memory, are never touched."""
    arrays = [Buffer(np.zeros(8, np.uint32)) for _ in range(2000)]
    addresses = np.array([each.array.ctypes.data for each in arrays], np.uint64)
    body = """ld.param.u64 %rd0, [x]; mul.wide.u32 %rd1, %r0, 8; add.s64 %rd0, %rd0, %rd1; ld.global.u64 %rd2, [%rd0];
    ld.global.u32 %r1, [%rd2]; add.u32 %r1, %r1, %r0; st.global.u32 [%rd2], %r1;"""
    kernel = load(entry(REGISTERS + body + " ret;", ".param .u64 x"))["kernel"]
    before = resident_bytes()
    result = launch(kernel, 1, 1000, [Buffer(addresses, behind=arrays)])
    taken = resident_bytes() - before
    assert result.counters["global_store_requests"] > 0
    assert [each.array[0] for each in arrays[:1000]] == list(range(1000))
    assert taken < 100e6


@pytest.mark.parametrize("table", [False, True])
def test_part_of_an_array_too_large_to_be_copied(table):
    """By its own address and through a table: the part is at its distance from the beginning, and the rest is unmapped."""
    whole = np.zeros(1 << 32, np.uint32)
    array, last = Buffer(whole, part=whole[-32:]), len(whole) - 32
    address = "ld.param.u64 %rd0, [x];" + " ld.global.u64 %rd0, [%rd0];" * table
    body = f"{address} mul.wide.u32 %rd1, %r0, 4; add.s64 %rd0, %rd0, %rd1;"
    kernel = load(entry(f"{REGISTERS}{body} add.s64 %rd0, %rd0, {4 * last}; st.global.u32 [%rd0], %r0; ret;", ".param .u64 x"))
    argument = Buffer(np.array([whole.ctypes.data], np.uint64), behind=[array]) if table else array
    launch(kernel["kernel"], 1, 32, [argument])
    assert list(whole[-32:]) == list(range(32))
    with pytest.raises(KernelFault, match="0 bytes past the end of"):
        launch(kernel["kernel"], 1, 64, [argument])
