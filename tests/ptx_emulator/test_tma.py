"""TMA: boxes of tensors, swizzles, edges, reductions, and every misuse. The oracle is NumPy slicing and padding."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Policy, Result
from .tensor_map import TensorMap
from .testing import run_text

RNG = np.random.default_rng(0)
BF16 = ml_dtypes.bfloat16
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
THREADS = 64
REGISTERS = """.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 8 .b8 bar[8];
.shared .align 1024 .b8 tile[{size}];
mov.u32 %r0, %tid.x; mov.u32 %r1, bar; mov.u32 %r2, tile; setp.eq.u32 %p0, %r0, 0; ld.param.u64 %rd0, [flat];
mov.b64 %rd1, map; cvta.param.u64 %rd1, %rd1;"""
INIT = "@%p0 mbarrier.init.shared::cta.b64 [%r1], 1; @%p0 fence.mbarrier_init.release.cluster; bar.sync 0;"
WAIT = "W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra W;"
# 16 bytes a step and thread between the tile and `flat`.
OUT = """shl.b32 %r3, %r0, 4; OUT: setp.ge.u32 %p1, %r3, {size}; @%p1 bra END; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd2, %r3;
add.s64 %rd2, %rd0, %rd2; ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r4]; st.global.v4.u32 [%rd2], {{%r5, %r6, %r7, %r8}};
add.u32 %r3, %r3, 1024; bra OUT; END: ret;"""
IN = """shl.b32 %r3, %r0, 4; IN: setp.ge.u32 %p1, %r3, {size}; @%p1 bra DONE; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd2, %r3;
add.s64 %rd2, %rd0, %rd2; ld.global.v4.u32 {{%r5, %r6, %r7, %r8}}, [%rd2]; st.shared.v4.u32 [%r4], {{%r5, %r6, %r7, %r8}};
add.u32 %r3, %r3, 1024; bra IN; DONE:"""
FENCE = "fence.proxy.async.shared::cta; bar.sync 0;"
GROUP = "@%p0 cp.async.bulk.commit_group; @%p0 cp.async.bulk.wait_group 0;"
PARAMETERS = ".param .align 64 .b8 map[128], .param .u64 flat"


def coordinates(at: tuple[int, ...]) -> str:
    return "{" + ", ".join(str(c) for c in reversed(at)) + "}"


def load_text(rank: int, at: tuple[int, ...], size: int) -> str:
    return f"""@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], {size};
    @%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
    [%r2], [%rd1, {coordinates(at)}], [%r1];"""


def store_text(rank: int, at: tuple[int, ...], what: str = "cp.async.bulk.tensor.{}d.global.shared::cta.tile.bulk_group") -> str:
    return f"@%p0 {what.format(rank)} [%rd1, {coordinates(at)}], [%r2];"


def run(body: str, size: int, described: TensorMap, flat: Any, **how: Any) -> Result:
    return run_text(
        REGISTERS.format(size=size) + body.replace("{size}", str(size)).replace("{{", "{").replace("}}", "}"),
        PARAMETERS,
        [described, flat],
        block=THREADS,
        target="sm_90a",
        **how,
    )


def load(x: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], policy: Policy | None = None, **how: Any) -> np.ndarray:
    """What a load leaves in shared memory, as bytes."""
    described = TensorMap(x, box, **how)
    size = described.fields.box_bytes
    flat = np.zeros(size, np.uint8)
    run(INIT + load_text(x.ndim, at, size) + WAIT + OUT, size, described, flat, policy=policy)
    return flat


def window(x: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], fill: Any = 0) -> np.ndarray:
    """The box at `at`, with `fill` where it leaves the tensor."""
    padded = np.pad(x, [(300, 300)] * x.ndim if x.ndim < 3 else [(16, 16)] * x.ndim, constant_values=fill)
    margin = 300 if x.ndim < 3 else 16
    return padded[tuple(slice(margin + a, margin + a + b) for a, b in zip(at, box, strict=True))]


def unswizzled(data: np.ndarray, row_bytes: int, span: int) -> np.ndarray:
    """Rows of a swizzled tile at address 0 modulo 1024, found chunk by chunk with the rule of the PTX ISA's figures:
    chunk j of line i (a line: 128 bytes) is at j ^ (i mod 8) for 128B, and so on.
    """
    chunks = data.reshape(-1, 8, 16)
    out = np.empty_like(chunks)
    for line, j in itertools.product(range(len(chunks)), range(8)):
        flip = {16: 0, 32: line % 2, 64: line % 4, 128: line % 8}[span]
        out[line, j] = chunks[line, j ^ flip]
    return out.reshape(-1, row_bytes)


@every_policy
@pytest.mark.parametrize(
    ("shape", "box", "at"),
    [
        ((300,), (128,), (64,)),
        ((300,), (128,), (250,)),
        ((300,), (128,), (-40,)),
        ((40, 64), (16, 32), (8, 16)),
        ((40, 64), (16, 32), (-3, 40)),
        ((40, 64), (16, 32), (39, -31)),
        ((40, 64), (16, 32), (100, 100)),
        ((5, 12, 32), (2, 4, 16), (4, 10, 3)),
        ((3, 4, 6, 16), (2, 2, 3, 16), (-1, 3, 4, 8)),
        ((2, 3, 4, 5, 16), (2, 2, 2, 2, 8), (1, -1, 3, 2, 12)),
    ],
)
def test_load_tiles(shape, box, at, policy):
    x = RNG.integers(0, 2**16, shape, dtype=np.uint16)
    got = load(x, box, at, policy).view(np.uint16).reshape(box)
    np.testing.assert_array_equal(got, window(x, box, at))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16, BF16, np.float32, np.int32, np.float64, np.int64])
@pytest.mark.parametrize("span", [16, 32, 64, 128])
def test_load_swizzled(dtype, span):
    dtype = np.dtype(dtype)
    x = RNG.integers(0, 256, (40, 48 * dtype.itemsize * 4), dtype=np.uint8).view(dtype)
    box = (24, span // dtype.itemsize)
    data = load(x, box, (20, 8), swizzle={16: "none"}.get(span, f"{span}B"))
    np.testing.assert_array_equal(unswizzled(data, span, span), window(x.view(f"u{dtype.itemsize}"), box, (20, 8)).view(np.uint8))


def test_load_nan_fill_and_element_strides():
    x = RNG.standard_normal((20, 32)).astype(np.float32)
    got = load(x, (8, 16), (16, 24), oob_fill="nan").view(np.float32).reshape(8, 16)
    np.testing.assert_array_equal(got, window(x, (8, 16), (16, 24), np.nan))
    got = load(x, (8, 16), (1, 0), element_strides=(3, 1)).view(np.float32).reshape(3, 16)
    np.testing.assert_array_equal(got, x[1:9:3, :16])


def store(x: np.ndarray, tile: np.ndarray, at: tuple[int, ...], policy: Policy | None = None, **how: Any) -> Result:
    described = TensorMap(x, tile.shape, **how)
    return run(IN + FENCE + store_text(x.ndim, at) + GROUP + "ret;", tile.nbytes, described, tile.view(np.uint8), policy=policy)


@every_policy
@pytest.mark.parametrize("at", [(0, 0), (8, 32), (-3, 40), (35, -16), (100, 0)])
def test_store_clips(at, policy):
    x = np.zeros((40, 64), np.uint16)
    tile = RNG.integers(1, 2**16, (16, 32), dtype=np.uint16)
    result = store(x, tile, at, policy)
    want = np.zeros((640, 664), np.uint16)
    want[300 + at[0] : 316 + at[0], 300 + at[1] : 332 + at[1]] = tile
    np.testing.assert_array_equal(x, want[300:340, 300:364])
    assert result.counters["bulk_store_bytes"] == 2 * np.count_nonzero(x)


def test_store_swizzled():
    x = np.zeros((32, 64), np.uint16)
    tile = RNG.integers(0, 2**16, (32, 64), dtype=np.uint16)
    store(x, tile, (0, 0), swizzle="128B")
    np.testing.assert_array_equal(x.view(np.uint8), unswizzled(tile.view(np.uint8), 128, 128))


@every_policy
@pytest.mark.parametrize(
    ("operation", "dtype"),
    [
        ("add", np.float32),
        ("add", np.float16),
        ("add", BF16),
        ("add", np.uint64),
        ("add", np.int32),
        ("min", np.int32),
        ("max", np.uint32),
        ("min", np.float16),
        ("max", BF16),
        ("and", np.uint32),
        ("or", np.uint32),
        ("xor", np.uint32),
        ("inc", np.uint32),
        ("dec", np.uint32),
    ],
)
def test_reduce(operation, dtype, policy):
    """Two CTAs add to one place."""
    dtype = np.dtype(dtype)
    integers = dtype.kind in "iu"
    x, tile = ((RNG.integers(0, 50, (20, 16)) if integers else RNG.integers(-8, 8, (20, 16))).astype(dtype) for _ in range(2))
    tile = tile[:8].copy()
    before, at = x.copy(), (14, 0)
    text = "cp.reduce.async.bulk.tensor.{}d.global.shared::cta." + operation + ".tile.bulk_group"
    body = IN + FENCE + store_text(2, at, text) + GROUP + "ret;"
    run(body, tile.nbytes, TensorMap(x, tile.shape), tile.view(np.uint8), policy=policy, grid=2)
    want, new = before.copy(), tile[:6]
    for _ in range(2):
        old = want[14:]
        if operation == "inc":
            want[14:] = np.where(old >= new, 0, old + 1)
        elif operation == "dec":
            want[14:] = np.where((old == 0) | (old > new), new, old - 1)
        else:
            names = {"add": "add", "min": "minimum", "max": "maximum", "and": "bitwise_and", "or": "bitwise_or"}
            want[14:] = getattr(np, names.get(operation, "bitwise_xor"))(old, new)
    np.testing.assert_array_equal(x, want)


# Findings.

X = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
SIZE = 16 * 64


def fault(body: str, described: TensorMap | None = None, flat: Any = None, **how: Any) -> str:
    flat = np.zeros(SIZE, np.uint8) if flat is None else flat
    with pytest.raises(KernelFault) as caught:
        run(body, SIZE, described or TensorMap(Buffer(X.copy(), "x"), (16, 64)), flat, **how)
    return str(caught.value)


LOAD = load_text(2, (0, 0), SIZE)


@every_policy
def test_load_without_wait(policy):
    text = fault(INIT + LOAD + OUT, policy=policy)
    assert "tile (1024 bytes)" in text
    assert "in-flight: reads" in text or "race: reads" in text


@every_policy
def test_kernel_ends_before_a_load_is_known_to_be_complete(policy):
    text = fault(INIT + LOAD + "bar.sync 0; ret;", policy=policy)
    assert "the kernel ended while a tma load operation was in flight: nothing waited for it" in text


@every_policy
def test_load_over_what_threads_wrote_needs_a_fence(policy):
    body = "shl.b32 %r3, %r0, 4; add.u32 %r4, %r2, %r3; st.shared.u32 [%r4], %r0; {0}" + INIT + LOAD + WAIT + OUT
    assert "proxy-fence: the async proxy accesses" in fault(body.replace("{0}", ""), policy=policy)
    run(body.replace("{0}", FENCE), SIZE, TensorMap(X, (16, 64)), np.zeros(SIZE, np.uint8), policy=policy)


@every_policy
def test_mbarrier_must_be_initialised_before_the_load(policy):
    """Another warp initialises it, and no barrier comes between."""
    init = "@%p0 mbarrier.init.shared::cta.b64 [%r1], 1; setp.eq.u32 %p0, %r0, 32;"
    text = fault(init + LOAD.split(";")[1].strip() + "; ret;", policy=policy)
    assert "uses the mbarrier at" in text or "that was not initialised" in text


@every_policy
def test_two_loads_to_one_place(policy):
    body = INIT + LOAD.replace(str(SIZE), str(2 * SIZE)) + LOAD.split(";")[1] + ";" + WAIT + OUT
    text = fault(body, policy=policy)
    assert "starts an asynchronous write" in text or "race: asynchronously writes" in text


def test_too_few_bytes_expected():
    text = fault(INIT + LOAD.replace(f"{SIZE};", "512;") + WAIT + OUT)
    assert "deadlock" in text
    assert "which lacks 0 arrivals and -512 bytes" in text


@every_policy
def test_load_over_data_that_is_still_read(policy):
    again = LOAD + WAIT.replace("W", "V").replace(", 0;", ", 1;")
    read = "ld.shared.u32 %r9, [%r2+512];"
    body = INIT + LOAD + WAIT + read + again + OUT
    text = fault(body, policy=policy)
    assert "race: writes 8 bytes at byte 512 of shared tile" in text or "in-flight: reads" in text
    run(
        INIT + LOAD + WAIT + read + "bar.sync 0;" + again + OUT,
        SIZE,
        TensorMap(X, (16, 64)),
        np.zeros(SIZE, np.uint8),
        policy=policy,
    )


STORE = store_text(2, (0, 0))


@every_policy
def test_store_without_proxy_fence(policy):
    text = fault(IN + "bar.sync 0;" + STORE + GROUP + "ret;", policy=policy)
    assert "proxy-fence: the async proxy accesses" in text
    assert "without a fence.proxy.async after the write" in text


@every_policy
def test_store_without_barrier(policy):
    text = fault(IN + "fence.proxy.async.shared::cta;" + STORE + GROUP + "ret;", policy=policy)
    assert "race: asynchronously reads" in text or "uninitialised: asynchronously reads" in text or "in-flight: writes" in text


@every_policy
@pytest.mark.parametrize("group", ["@%p0 cp.async.bulk.commit_group;", "@%p0 cp.async.bulk.wait_group 0;"])
def test_kernel_ends_before_a_store_has_read(group, policy):
    text = fault(IN + FENCE + STORE + group + "ret;", policy=policy)
    assert "the kernel ended while a tma store operation was in flight" in text


def test_wait_for_reading_is_enough_at_the_end():
    run(
        IN + FENCE + STORE + GROUP.replace("wait_group", "wait_group.read") + "ret;",
        SIZE,
        TensorMap(X.copy(), (16, 64)),
        X.reshape(-1)[:SIZE],
    )


@every_policy
def test_source_of_a_store_is_overwritten(policy):
    again = "bar.sync 0; @%p0 st.shared.u32 [%r2], %r0; ret;"
    commit = "@%p0 cp.async.bulk.commit_group;"
    text = fault(IN + FENCE + STORE + commit + again, policy=policy)
    assert "in-flight: writes 16 bytes" in text or "in-flight: writes 4 bytes at byte 0 of shared tile" in text
    text = fault(
        IN + FENCE + STORE + GROUP.replace("p_0", "p0").replace("bulk.wait_group 0", "bulk.wait_group.read 1") + again,
        policy=policy,
    )
    assert "while an asynchronous operation may still be reading it" in text
    body = IN + FENCE + STORE + GROUP.replace("wait_group", "wait_group.read")
    flat = X.reshape(-1)[:SIZE].copy()
    run(body + again, SIZE, TensorMap(X.copy(), (16, 64)), flat, policy=policy)
    other = again.replace("bar.sync 0;", "setp.eq.u32 %p0, %r0, 40;").replace("[%r2]", "[%r2+16]")
    text = fault(body + other, policy=policy)
    assert "may still be reading it" in text or "race: writes" in text or "race: asynchronously reads" in text


@every_policy
@pytest.mark.parametrize("wait", ["wait_group 0", "wait_group.read 0"])
def test_reading_what_a_store_wrote(wait, policy):
    """.read says nothing about global memory."""
    y = np.zeros((16, 64), np.uint8)
    x = Buffer(y, "x", initialised=False)
    read = "ld.param.u64 %rd3, [back]; @%p0 ld.global.u32 %r9, [%rd3+64]; @%p0 st.global.u32 [%rd0], %r9; ret;"
    flat = X.reshape(-1)[:SIZE].copy()
    body = REGISTERS.format(size=SIZE) + IN.replace("{size}", str(SIZE)).replace("{{", "{").replace("}}", "}")
    body += FENCE + STORE + GROUP.replace("wait_group 0", wait) + read
    how = {"block": THREADS, "target": "sm_90a", "policy": policy}
    if ".read" not in wait:
        run_text(body, PARAMETERS + ", .param .u64 back", [TensorMap(x, (16, 64)), flat, x], **how)
        assert flat[:4].tolist() == X.reshape(-1)[64:68].tolist()
        return
    with pytest.raises(KernelFault, match=r"in-flight: reads 4 bytes at byte 64 of x"):
        run_text(body, PARAMETERS + ", .param .u64 back", [TensorMap(x, (16, 64)), flat, x], **how)


def test_load_of_what_a_thread_wrote_needs_a_fence():
    """The async proxy reads global memory, too."""
    x = X.copy()
    body = "ld.param.u64 %rd3, [back]; @%p0 st.global.u32 [%rd3+64], %r0; {fence}" + INIT + LOAD + WAIT + OUT
    arguments = [TensorMap(Buffer(x, "x"), (16, 64)), np.zeros(SIZE, np.uint8), x]
    text = REGISTERS.format(size=SIZE) + body.replace("{size}", str(SIZE)).replace("{{", "{").replace("}}", "}")
    with pytest.raises(KernelFault, match=r"proxy-fence: the async proxy reads \d+ bytes at byte 64 of x"):
        run_text(text.replace("{fence}", ""), PARAMETERS + ", .param .u64 back", arguments, block=THREADS, target="sm_90a")
    fenced = text.replace("{fence}", "fence.proxy.async.global;")
    run_text(fenced, PARAMETERS + ", .param .u64 back", arguments, block=THREADS, target="sm_90a")


def test_maps_that_do_not_fit():
    larger = TensorMap(Buffer(X.copy(), "x"), (16, 64), sizes=(80, 64))
    text = fault(INIT + load_text(2, (60, 0), SIZE) + WAIT + OUT, larger)
    assert "0 bytes past the end of x (4096 bytes): the tensor map describes more than the array has [12 times]" in text
    text = fault(IN + FENCE + store_text(2, (60, 0)) + GROUP + "ret;", larger)
    assert "asynchronously writes 64 bytes" in text
    fixed = X.copy()
    fixed.flags.writeable = False
    text = fault(IN + FENCE + STORE + GROUP + "ret;", TensorMap(Buffer(fixed, "x"), (16, 64)))
    assert "an array that is read-only" in text
    text = fault(INIT + LOAD + WAIT + OUT, TensorMap(Buffer(X.copy(), "x", initialised=False), (16, 64)))
    assert "uninitialised: asynchronously reads 64 bytes at byte 0 of x (4096 bytes), which nothing has written" in text
    text = fault(INIT + load_text(3, (0, 0, 0), SIZE) + WAIT + OUT)
    assert "the instruction takes a tensor of rank 3, the tensor map has rank 2" in text
    text = fault(INIT + LOAD.replace("[%r2]", "[%r2+64]") + WAIT + OUT, TensorMap(X, (8, 64)))
    assert "misaligned: bulk access of 512 bytes at address" in text
    assert "not a multiple of 128" in text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"box": (16, 300)}, "box 0 is 300 elements"),
        ({"box": (16, 4)}, "4 bytes are no multiple of 16"),
        ({"box": (16, 64), "swizzle": "32B"}, "64 bytes, more than the span of the swizzle"),
        ({"box": (16, 64), "strides": (72, 1)}, "the stride of dimension 1 is 72 bytes"),
        ({"box": (16, 64), "oob_fill": "nan"}, "cannot be filled with NaN"),
        ({"box": (16, 64), "element_strides": (9, 1)}, "element stride 1 is 9"),
        ({"box": (16, 64), "sizes": (0, 64)}, "size 1 is 0"),
        ({"box": (16,)}, "2 sizes, 2 strides, 1 box sizes"),
        ({"box": (16, 64), "swizzle": "96B"}, "swizzle is one of none, 32B"),
        ({"box": (16, 64), "element_type": "s8"}, "the element type is one of"),
        ({"box": (16, 32), "strides": (64, 2)}, "the innermost dimension must be dense"),
    ],
)
def test_maps_that_the_driver_refuses(how, message):
    with pytest.raises(ValueError, match=message):
        TensorMap(X, **how)


def test_misaligned_arrays_are_refused():
    with pytest.raises(ValueError, match=r"the global address .* is not a multiple of 16"):
        TensorMap(X[:, 8:], (16, 32))
    with pytest.raises(ValueError, match="rank 6"):
        TensorMap(np.zeros((1, 1, 1, 1, 1, 16), np.uint8), (1, 1, 1, 1, 1, 16))
