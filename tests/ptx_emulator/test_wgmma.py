"""wgmma: values by the formulas of the PTX ISA, and what is wrong with kernels that misuse it."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Policy, PTXError, load
from .testing import entry, run_text

DTYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "s8": np.int8,
    "u8": np.uint8,
}
RESULTS = {"f32": np.float32, "f16": np.float16, "s32": np.int32}
K_MAJOR_128 = 2 << 61 | 1024 >> 4 << 32 | 1 << 16
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


def random_matrix(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind in ("s8", "u8"):
        return rng.integers(0, 256, (rows, columns)).astype(np.uint8).view(DTYPES[kind])
    values = rng.standard_normal((rows, columns)).astype(np.float32)
    if kind == "tf32":
        return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return values.astype(DTYPES[kind])


def swizzled(matrix: np.ndarray, span: int = 128, size: int | None = None) -> np.ndarray:
    """The bytes of a tile as TMA writes it with a swizzle of `span` bytes: rows of `span` bytes (the rest is zero), K-major."""
    rows = np.ascontiguousarray(matrix).view(np.uint8).reshape(len(matrix), -1)
    out = np.zeros(size or len(rows) * span, np.uint8)
    for r, c in product(range(len(rows)), range(rows.shape[1] // 16)):
        at = r * span + c * 16
        at ^= (at >> 7 & span // 16 - 1) << 4
        out[at : at + 16] = rows[r, c * 16 : c * 16 + 16]
    return out


def mn_major(matrix: np.ndarray) -> np.ndarray:
    """The bytes of (rows, K) elements of two bytes, rows contiguous: blocks of 64 rows x 8 k of 128-byte lines, swizzled.

    LBO (the next 64 rows) is 4096, SBO (the next 8 of K) is 1024.
    """
    out = np.zeros(-(-len(matrix) // 64) * 4096, np.uint8)
    for r, k in product(range(0, len(matrix), 8), range(matrix.shape[1])):
        at = r // 64 * 4096 + k // 8 * 1024 + k % 8 * 128 + r % 64 * 2
        at ^= (at >> 7 & 7) << 4
        out[at : at + 16] = np.ascontiguousarray(matrix[r : r + 8, k]).view(np.uint8)
    return out


def place_d(thread: int, register: int) -> tuple[int, int]:
    """(row, column) of accumulator `register` of a thread."""
    warp, lane = thread // 32, thread % 32
    return 16 * warp + lane // 4 + 8 * (register // 2 % 2), 8 * (register // 4) + 2 * (lane % 4) + register % 2


def gather_d(out: np.ndarray, n: int) -> np.ndarray:
    """The 64 x N matrix from (threads, N / 2) accumulators."""
    matrix = np.zeros((64, n), out.dtype)
    for thread, register in product(range(128), range(n // 2)):
        matrix[place_d(thread, register)] = out[thread, register]
    return matrix


LOAD = """ld.param.u64 %from, [a]; mul.wide.u32 %at, %id, 16; add.u64 %from, %from, %at;
    mov.u32 %base, tile; shl.b32 %off, %id, 4; add.u32 %to, %base, %off;
    COPY: ld.global.v4.u32 {%w0, %w1, %w2, %w3}, [%from]; st.shared.v4.u32 [%to], {%w0, %w1, %w2, %w3};
    add.u64 %from, %from, 2048; add.u32 %to, %to, 2048; add.u32 %off, %off, 2048; setp.lt.u32 %more, %off, SIZE; @%more bra COPY;
    """
DESCRIPTORS = """mov.u64 %da, DESCA; mov.u64 %db, DESCB; cvt.u64.u32 %at, %base; shr.u64 %at, %at, 4; add.u64 %da, %da, %at;
    add.u64 %db, %db, %at;
    """


def program(core: str, n: int, d: str, size: int, desc_a: int, desc_b: int, fence: str = "fence.proxy.async; bar.sync 0;") -> str:
    """A kernel of one warpgroup that copies `size` bytes to shared memory, runs `core`, and stores the accumulators %d<i>."""
    count = n // 4 if d == "f16" else n // 2
    stores = "".join(f"st.global.b32 [%from+{4 * i}], %d{i};" for i in range(count))
    text = f""".reg .b32 %id, %base, %off, %to, %w<4>, %d<{count}>, %a<4>, %x<4>, %y<8>;
    .reg .b64 %from, %at, %da, %db; .reg .pred %more, %p;
    .shared .align 1024 .b8 tile[{size}]; mov.u32 %id, %tid.x; {LOAD} {fence} {DESCRIPTORS}
    {core}
    ld.param.u64 %from, [out]; mul.wide.u32 %at, %id, {4 * count}; add.u64 %from, %from, %at; {stores} ret;"""
    return text.replace("SIZE", str(size)).replace("DESCA", str(desc_a)).replace("DESCB", str(desc_b))


def accumulators(n: int, d: str = "f32") -> str:
    return "{" + ", ".join(f"%d{i}" for i in range(n // 4 if d == "f16" else n // 2)) + "}"


def multiply(n: int, kinds: str, k: int, a: str = "%da", scale_d: str = "0", rest: str = ", 1, 1", d: str = "f32") -> str:
    return f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{kinds} {accumulators(n, d)}, {a}, %db, {scale_d}{rest};"


FENCE = "wgmma.fence.sync.aligned;"
DONE = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"


def launch_core(core: str, image: np.ndarray, n: int, d: str, desc_a: int, desc_b: int, fence: str | None = None, **how):
    """(result, accumulators by thread). `extra`: bytes that follow the image in global memory only."""
    body = program(core, n, d, image.size, desc_a, desc_b, *([] if fence is None else [fence]))
    image = np.concatenate([image, how.pop("extra", image[:0])])
    out = np.zeros((128, n // 2), RESULTS[d])
    result = run_text(
        body, ".param .u64 a, .param .u64 out", [image, Buffer(out, "out")], block=how.pop("block", 128), target="sm_90a", **how
    )
    return result, out


def pad(image: np.ndarray) -> np.ndarray:
    """To a multiple of 2048 bytes."""
    return np.concatenate([image, np.zeros(-len(image) % 2048, np.uint8)])


def operands(kind_a: str, kind_b: str, n: int, k: int, seed: int = 0):
    """(A, B, the image of both 128-byte swizzled tiles, descriptors relative to the start of the array)."""
    a, b = random_matrix(kind_a, 64, k, seed), random_matrix(kind_b, n, k, seed + 1)
    image = pad(np.concatenate([swizzled(a), swizzled(b)]))
    return a, b, image, K_MAJOR_128, K_MAJOR_128 + (8192 >> 4)


CASES = [
    ("f32", "f16", "f16", 16, 64),
    ("f16", "f16", "f16", 16, 24),
    ("f32", "bf16", "bf16", 16, 8),
    ("f32", "tf32", "tf32", 8, 40),
    ("f32", "e4m3", "e4m3", 32, 256),
    ("f32", "e4m3", "e5m2", 32, 16),
    ("f32", "e5m2", "e4m3", 32, 104),
    ("f16", "e5m2", "e5m2", 32, 8),
    ("s32", "s8", "u8", 32, 64),
    ("s32", "u8", "s8", 32, 24),
]


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64).T


@pytest.mark.parametrize(("d", "kind_a", "kind_b", "k", "n"), CASES)
def test_shapes_and_types(d, kind_a, kind_b, k, n):
    """Two instructions on two columns of 32 bytes, the first without the accumulator."""
    a, b, image, da, db = operands(kind_a, kind_b, n, 2 * k)
    rest = "" if d == "s32" else ", 1, 1, 0, 0" if kind_a in ("f16", "bf16") else ", 1, 1"
    steps = [multiply(n, f"{kind_a}.{kind_b}", k, scale_d=str(i), rest=rest, d=d) for i in range(2)]
    core = FENCE + steps[0] + "add.u64 %da, %da, 2; add.u64 %db, %db, 2;" + steps[1] + DONE
    result, out = launch_core(core, image, n, d, da, db)
    first = exact(a[:, :k], b[:, :k]).astype(RESULTS[d])
    want = (exact(a[:, k:], b[:, k:]) + first.astype(np.float64)).astype(RESULTS[d])
    np.testing.assert_array_equal(gather_d(out, n), want)
    assert result.counters["wgmma"] == 2


@pytest.mark.parametrize(("d", "kind", "k"), [("f32", "bf16", 16), ("f32", "tf32", 8), ("f32", "e4m3", 32), ("s32", "s8", 32)])
def test_a_from_registers(d, kind, k):
    n = 32
    a, b, image, _, db = operands(kind, kind, n, k)
    per = 4 // a.itemsize
    words = np.zeros((128, 4 * per), a.dtype)
    for thread, r, j in product(range(128), range(4), range(per)):
        group, t = thread % 32 // 4, thread % 4
        words[thread, r * per + j] = a[16 * (thread // 32) + group + 8 * (r % 2), per * t + j + k // 2 * (r // 2)]
    image = np.concatenate([pad(words.view(np.uint8).reshape(-1)), image])  # the fragments lie first in global memory
    loads = """ld.param.u64 %from, [a]; mul.wide.u32 %at, %id, 16; add.u64 %from, %from, %at;
    ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%from];"""
    rest = "" if d == "s32" else ", 1, 1, 0" if kind == "bf16" else ", 1, 1"
    core = loads + FENCE + multiply(n, f"{kind}.{kind}", k, "{%a0, %a1, %a2, %a3}", rest=rest, d=d) + DONE
    _, out = launch_core(core, image, n, d, 0, db + (2048 >> 4))
    np.testing.assert_array_equal(gather_d(out, n), exact(a, b).astype(RESULTS[d]))


@pytest.mark.parametrize(("trans_a", "trans_b"), [(1, 0), (0, 1), (1, 1)])
def test_operands_along_their_rows(trans_a, trans_b):
    n, k = 128, 16
    a, b = random_matrix("f16", 64, k), random_matrix("f16", n, k, 1)
    images = mn_major(a) if trans_a else swizzled(a), mn_major(b) if trans_b else swizzled(b)
    along = 2 << 61 | 1024 >> 4 << 32 | 4096 >> 4 << 16
    da, db = along if trans_a else K_MAJOR_128, (along if trans_b else K_MAJOR_128) + (len(images[0]) >> 4)
    core = FENCE + multiply(n, "f16.f16", k, rest=f", 1, 1, {trans_a}, {trans_b}") + DONE
    _, out = launch_core(core, pad(np.concatenate(images)), n, "f32", da, db)
    np.testing.assert_array_equal(gather_d(out, n), exact(a, b).astype(np.float32))


@pytest.mark.parametrize(("sign_a", "sign_b"), [(-1, 1), (1, -1), (-1, -1)])
def test_signs(sign_a, sign_b):
    a, b, image, da, db = operands("e4m3", "e4m3", 16, 32)
    _, out = launch_core(FENCE + multiply(16, "e4m3.e4m3", 32, rest=f", {sign_a}, {sign_b}") + DONE, image, 16, "f32", da, db)
    np.testing.assert_array_equal(gather_d(out, 16), (sign_a * sign_b * exact(a, b)).astype(np.float32))


def test_saturation():
    a, b = np.full((64, 32), 127, np.int8), np.full((8, 32), 127, np.int8)
    image = pad(np.concatenate([swizzled(a), swizzled(b)]))
    largest = "".join(f"mov.b32 %d{i}, 0x7fffff00;" for i in range(4))
    text = multiply(8, "s8.s8", 32, scale_d="1", rest="", d="s32")
    for core, want in (
        (text, 0x7FFFFF00 + 32 * 127 * 127 - 2**32),
        (text.replace("s32.s8.s8", "s32.s8.s8.satfinite"), 2**31 - 1),
    ):
        _, out = launch_core(largest + FENCE + core + DONE, image, 8, "s32", K_MAJOR_128, K_MAJOR_128 + 512)
        assert (out == want).all()


def test_scale_d_as_a_predicate():
    _, _, image, da, db = operands("e4m3", "e4m3", 8, 32)
    ones = "".join(f"mov.f32 %d{i}, 0f3F800000;" for i in range(4))
    outs = []
    for compare in ("eq", "ne"):
        core = f"{ones} setp.{compare}.u32 %p, %id, %id; {FENCE} {multiply(8, 'e4m3.e4m3', 32, scale_d='%p')} {DONE}"
        outs.append(launch_core(core, image, 8, "f32", da, db)[1])
    np.testing.assert_allclose(outs[0], outs[1] + 1, atol=1e-5)


# Mistakes.

N = 16
KINDS = "e4m3.e4m3"
MULTIPLY = multiply(N, KINDS, 32)


def fault(core: str, policy: Policy | None = None, fence: str | None = None, shift: int = 0, **how) -> str:
    _, _, image, da, db = operands("e4m3", "e4m3", N, 32)
    with pytest.raises(KernelFault) as caught:
        launch_core(core, image, N, "f32", da + shift, db, fence, policy=policy, **how)
    return str(caught.value)


@every_policy
def test_a_right_kernel(policy):
    a, b, image, da, db = operands("e4m3", "e4m3", N, 32)
    _, out = launch_core(FENCE + MULTIPLY + DONE, image, N, "f32", da, db, policy=policy)
    np.testing.assert_array_equal(gather_d(out, N), exact(a, b).astype(np.float32))


@every_policy
def test_missing_wait(policy):
    text = fault(FENCE + MULTIPLY + "wgmma.commit_group.sync.aligned;", policy)
    assert "in-flight: reads register %d0, an accumulator of wgmma.mma_async at PTX line" in text
    assert "wgmma.wait_group must come before" in text
    assert "the kernel ended while a wgmma operation was in flight" in text


@every_policy
def test_missing_commit(policy):
    assert "in-flight: reads register %d0" in fault(FENCE + MULTIPLY + "wgmma.wait_group.sync.aligned 0;", policy)


@every_policy
def test_wait_that_leaves_the_group_pending(policy):
    assert "in-flight: reads register %d0" in fault(FENCE + MULTIPLY + DONE.replace("aligned 0", "aligned 1"), policy)


@every_policy
def test_accumulator_written_too_early(policy):
    text = fault(FENCE + MULTIPLY + "mov.f32 %d3, 0f00000000;" + DONE, policy)
    assert "in-flight: writes register %d3, an accumulator of wgmma.mma_async" in text


@every_policy
def test_fragment_of_a_overwritten_too_early(policy):
    core = "mov.b32 %a0, 0; mov.b32 %a1, 0; mov.b32 %a2, 0; mov.b32 %a3, 0;" + FENCE
    core += multiply(N, KINDS, 32, "{%a0, %a1, %a2, %a3}")
    assert "in-flight: overwrites register %a2, an A fragment of wgmma" in fault(core + "mov.b32 %a2, 1;" + DONE, policy)
    second = multiply(N, KINDS, 32, "{%d1, %a1, %a2, %a3}").replace(accumulators(N), accumulators(N).replace("%d", "%y"))
    text = fault(core + second + DONE, policy)
    assert "in-flight: takes as A fragment register %d1, an accumulator of" in text


def test_overlapping_accumulators_of_different_shapes():
    other = multiply(8, KINDS, 32)
    assert "in-flight: accumulates in register %d0, an accumulator of" in fault(FENCE + MULTIPLY + other + DONE)


def test_missing_wgmma_fence():
    text = fault(MULTIPLY + DONE)
    assert "wgmma-fence: uses register %d0 with no wgmma.fence since the start of the kernel" in text
    text = fault(FENCE + MULTIPLY + DONE + "add.f32 %d2, %d2, %d2;" + MULTIPLY + DONE)
    assert "wgmma-fence: uses register %d2 with no wgmma.fence since PTX line" in text
    assert "(add.f32 %d2, %d2, %d2) accessed it" in text


@every_policy
def test_missing_proxy_fence(policy):
    text = fault(FENCE + MULTIPLY + DONE, policy, fence="bar.sync 0;")
    assert "proxy-fence: the async proxy accesses 16 bytes at byte 0 of shared tile" in text
    assert "without a fence.proxy.async after the write" in text


@every_policy
def test_missing_barrier(policy):
    text = fault(FENCE + MULTIPLY + DONE, policy, fence="fence.proxy.async;")
    assert "race: asynchronously reads" in text
    assert "with no barrier or wait between" in text


@every_policy
def test_operand_overwritten_before_the_wait(policy):
    text = fault(FENCE + MULTIPLY + "bar.sync 0; st.shared.u32 [%base], %id;" + DONE, policy)
    assert "in-flight: writes 4 bytes at byte 0 of shared tile" in text
    assert "while an asynchronous operation may still be reading it" in text


@pytest.mark.parametrize("policy", [Policy(), Policy("random", "random", 3)], ids=["lockstep", "random"])
@pytest.mark.parametrize(("scope", "clean"), [("warpgroup", True), ("warp", False)])
def test_operand_released_by_one_warp(policy, scope, clean):
    """Warp 3 overwrites when warp 0 has waited: sound only if a wait speaks for the warpgroup."""
    after = """mov.u32 %x0, %id; shr.u32 %x1, %id, 5; setp.eq.u32 %p, %x1, 3; @%p bra LAST;
    wgmma.wait_group.sync.aligned 0; bar.arrive 1, 128; bra END;
    LAST: bar.sync 1, 128; st.shared.v4.u32 [%base], {%x0, %x0, %x0, %x0}; wgmma.wait_group.sync.aligned 0; END:"""
    after = after.replace("bar.arrive 1, 128; bra END", "setp.ne.u32 %p, %x1, 0; @%p bra END; bar.arrive 1, 64; bra END")
    after = after.replace("bar.sync 1, 128", "bar.sync 1, 64").replace(
        "st.shared.v4", "setp.ne.u32 %p, %x0, 96; @!%p st.shared.v4"
    )
    core = FENCE + MULTIPLY + "wgmma.commit_group.sync.aligned;" + after
    policy = Policy(policy.schedule, policy.completion, policy.seed, scope)
    _, _, image, da, db = operands("e4m3", "e4m3", N, 32)
    result = launch_core(core, image, N, "f32", da, db, policy=policy, check=False)[0]
    assert bool(result.reports) != clean, str(result)
    if not clean:
        assert "while an asynchronous operation may still be reading it" in str(result) or "race: writes" in str(result)


def test_part_of_a_warp():
    core = f"{FENCE} setp.ne.u32 %p, %id, 5; @!%p bra SKIP; {MULTIPLY} SKIP: {DONE}"
    assert "divergence: an .aligned instruction is executed by part of a warp" in fault(core)


@every_policy
def test_part_of_a_warpgroup(policy):
    core = f"{FENCE} setp.lt.u32 %p, %id, 96; @!%p bra SKIP; {MULTIPLY} SKIP: {DONE}"
    text = fault(core, policy)
    assert "warp 3 ended without this wgmma, which other warps of its warpgroup execute" in text
    assert "deadlock" in text
    assert "96 threads wait for warps 3 of its warpgroup to execute wgmma.mma_async" in text


def test_warps_that_belong_to_no_warpgroup():
    assert "the CTA has 5 warps, so warp 4 belongs to no whole warpgroup" in fault(FENCE + MULTIPLY + DONE, block=160)


def test_warps_with_different_operands():
    core = f"{FENCE} setp.ge.u32 %p, %id, 64; @%p add.u64 %da, %da, 64; {MULTIPLY} {DONE}"
    assert "divergence: warps 0 and 2 of a warpgroup give different descriptors or scale-d" in fault(core)
    core = f"{FENCE} and.b32 %x0, %id, 1; cvt.u64.u32 %at, %x0; add.u64 %da, %da, %at; {MULTIPLY} {DONE}"
    assert "the threads of a warp give different descriptors" in fault(core)
    core = f"{FENCE} setp.ge.u32 %p, %id, 64; @%p bra B; {MULTIPLY} bra END; B: {MULTIPLY} END: {DONE}"
    assert "of a warpgroup execute different wgmma" in fault(core)
    core = f"{FENCE} setp.ge.u32 %p, %id, 64; @!%p bra B; wgmma.commit_group.sync.aligned; B: {MULTIPLY} {DONE}"
    assert "have executed wgmma.commit_group a different number of times" in fault(core)


def test_descriptors_that_make_no_sense():
    assert "descriptor: the descriptor of A: the swizzle field is bits 62-63, and bit 61 is set" in fault(
        FENCE + MULTIPLY + DONE, shift=1 << 61
    )
    assert "the start is 512 bytes into the pattern" in fault(FENCE + MULTIPLY + DONE, shift=512 >> 4)
    assert "out-of-bounds: A (64 rows, descriptor" in fault(FENCE + MULTIPLY + DONE, shift=8192 >> 4)


def test_a_wrong_swizzle_gives_wrong_values():
    """64-byte swizzle with the strides that go with it, on a tile of 128-byte rows: allowed, but the numbers are wrong."""
    a, b, image, da, db = operands("e4m3", "e4m3", N, 32)
    _, out = launch_core(FENCE + MULTIPLY + DONE, image, N, "f32", da + (2 << 61) - (512 >> 4 << 32), db)
    assert (gather_d(out, N) != exact(a, b).astype(np.float32)).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (multiply(N, "e4m3.f16", 32), "do not go together"),
        (multiply(N, "e4m3.e4m3", 16), "has K = 32"),
        (multiply(40, "s8.s8", 32, rest="", d="s32"), "N = 40 does not exist for .s8"),
        (multiply(N, "e4m3.e4m3", 32, rest=", 1, 1, 0, 1"), "6 operands are expected"),
        (multiply(N, "e4m3.e4m3", 32, rest=", 1, 2"), "a scale is 1 or -1"),
        (multiply(N, "e4m3.e4m3", 32).replace("m64n16", "m64n32"), "D needs 16 registers"),
    ],
)
def test_what_does_not_exist(text, message):
    with pytest.raises(PTXError, match=message):
        load(entry(f".reg .b32 %d<64>; .reg .b64 %da, %db; {text} ret;", "", "sm_90a"))
