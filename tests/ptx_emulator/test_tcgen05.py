"""tcgen05.mma, cp and commit: values by the formulas of the PTX ISA, and what is wrong with kernels that misuse them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, Policy, PTXError, load
from .test_wgmma import pad, swizzled
from .testing import entry, run_text

every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
RNG = np.random.default_rng(0)
DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "s8": np.int8,
    "u8": np.uint8,
}
CODES = {"f16": 0, "bf16": 1, "tf32": 2, "e4m3": 0, "e5m2": 1, "e2m3": 3, "e3m2": 4, "e2m1": 5, "u8": 0, "s8": 1}
RESULTS: dict[str, tuple[int, Any]] = {"f16": (0, np.float16), "f32": (1, np.float32), "s32": (2, np.int32)}
PACKED_BITS = {"e2m3": 6, "e3m2": 6, "e2m1": 4}
K_MAJOR_128 = 2 << 61 | 1 << 46 | 1024 >> 4 << 32 | 1 << 16


def idesc(m: int, n: int, d: str = "f32", a: str = "f16", b: str = "f16", rest: int = 0) -> int:
    return RESULTS[d][0] << 4 | CODES[a] << 7 | CODES[b] << 10 | n >> 3 << 17 | m >> 4 << 24 | rest


def operand(kind: str, rows: int) -> np.ndarray:
    """`rows` x K random elements."""
    dtype = np.dtype(DTYPES[kind])
    if kind in ("s8", "u8"):
        return RNG.integers(0, 256, (rows, 32)).astype(np.uint8).view(dtype)
    values = RNG.standard_normal((rows, 32 // dtype.itemsize)).astype(np.float32)
    if kind == "tf32":
        return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return values.astype(dtype)


def as_bytes(kind: str, matrix: np.ndarray) -> np.ndarray:
    """(rows, 32) bytes in shared memory: formats below 8 bits packed at the start of every 16 bytes."""
    if kind not in PACKED_BITS:
        return np.ascontiguousarray(matrix).view(np.uint8)
    out = np.zeros((len(matrix), 32), np.uint8)
    for row, codes in enumerate(matrix.view(np.uint8)):
        for half in range(2):
            number = sum(int(c) << PACKED_BITS[kind] * i for i, c in enumerate(codes[16 * half : 16 * half + 16]))
            out[row, 16 * half : 16 * half + 16] = np.frombuffer(number.to_bytes(16, "little"), np.uint8)
    return out


# The kernel: all threads copy x to shared memory and c to tensor memory; one multiplies; all read D.

HEAD = """.reg .b32 %id, %warp, %slot, %tm, %mine, %bar, %base, %to, %off, %w<4>, %z<4>, %v<COLS>;
    .reg .b64 %from, %out, %at, %da, %db, %dc; .reg .pred %first, %one, %more, %ok, %keep, %p;
    .shared .align 1024 .b8 tile[SIZE]; .shared .align 8 .b8 bar[16]; .shared .align 4 .b8 slot[4];
    mov.u32 %id, %tid.x; shr.u32 %warp, %id, 5; setp.eq.u32 %first, %warp, 0; setp.eq.u32 %one, %id, 0; mov.u32 %slot, slot;
    mov.u32 %bar, bar; mov.u32 %base, tile; mov.b32 %z0, 0; setp.eq.u32 %keep, %z0, 0;
    @%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%slot], 256;
    @%one mbarrier.init.shared::cta.b64 [%bar], 1; @%one mbarrier.init.shared::cta.b64 [%bar+8], 1;
    ld.param.u64 %from, [x]; mul.wide.u32 %at, %id, 16; add.u64 %from, %from, %at; shl.b32 %off, %id, 4;
    add.u32 %to, %base, %off;
    COPY: ld.global.v4.u32 {%w0, %w1, %w2, %w3}, [%from]; st.shared.v4.u32 [%to], {%w0, %w1, %w2, %w3};
    add.u64 %from, %from, 2048; add.u32 %to, %to, 2048; add.u32 %off, %off, 2048; setp.lt.u32 %more, %off, SIZE; @%more bra COPY;
    ld.param.u64 %from, [c]; ld.param.u64 %out, [y]; mul.wide.u32 %at, %id, BYTES; add.u64 %from, %from, %at;
    add.u64 %out, %out, %at;
    FENCE bar.sync 0; ld.shared.b32 %tm, [%slot]; and.b32 %mine, %warp, 3; shl.b32 %mine, %mine, 21; add.u32 %mine, %mine, %tm;
    cvt.u64.u32 %at, %base; shr.u64 %at, %at, 4; add.u64 %da, %at, DESCA; add.u64 %db, %at, DESCB;
    """
PROXY = "fence.proxy.async.shared::cta;"
FENCES = "tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync;"
STORE = "LOADC tcgen05.st.sync.aligned.32x32b.xCOLS.b32 [%mine], VECTOR;"
INIT = STORE + "tcgen05.wait::st.sync.aligned;" + FENCES
COMMIT = "@%one tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%bar];"
WAIT = "W: mbarrier.try_wait.parity.shared::cta.b64 %ok, [%bar], 0; @!%ok bra W; tcgen05.fence::after_thread_sync;"
READ = "tcgen05.ld.sync.aligned.32x32b.xCOLS.b32 VECTOR, [%mine]; tcgen05.wait::ld.sync.aligned; STOREY"
END = FENCES + "@%first tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tm, 256; ret;"


def mma(kind: str, bits: int, a: str = "%da", keep: str = "%keep", extra: str = "", after: str = "") -> str:
    return f"@%one tcgen05.mma.cta_group::1.kind::{kind} [%tm], {a}, %db, {bits}, {extra}{keep}{after};"


def run(core: str, image: np.ndarray, c: np.ndarray, desc_b: int = 0, fence: str = PROXY, **how):
    """(result, D) of a kernel with `core` between HEAD and END. `c`: (128, columns) words that INIT puts in tensor memory."""
    columns, image = c.shape[1], pad(image)
    y = np.zeros_like(c)
    text = HEAD + core + how.pop("end", END)
    each = "".join(f"ld.global.b32 %v{i}, [%from+{4 * i}];" for i in range(columns))
    text = text.replace("LOADC", each).replace("STOREY", each.replace("ld.global", "st.global").replace("%from", "%out"))
    for i in range(columns):
        text = text.replace(f"st.global.b32 %v{i}, [%out+{4 * i}];", f"st.global.b32 [%out+{4 * i}], %v{i};")
    vector = "{" + ", ".join(f"%v{i}" for i in range(columns)) + "}"
    words = {"VECTOR": vector, "COLS": columns, "SIZE": image.size, "BYTES": 4 * columns, "FENCE": fence, "DESCA": K_MAJOR_128}
    words["DESCB"] = K_MAJOR_128 + (desc_b >> 4)
    for word, value in words.items():
        text = text.replace(word, str(value))
    parameters = ".param .u64 x, .param .u64 c, .param .u64 y"
    result = run_text(text, parameters, [image, c, Buffer(y, "y")], block=128, **how)
    return result, y


def tiles(kind_a: str, kind_b: str, m: int, n: int):
    """(A, B, image, offset of B)."""
    a, b = operand(kind_a, m), operand(kind_b, n)
    image_a = swizzled(as_bytes(kind_a, a))
    return a, b, np.concatenate([image_a, swizzled(as_bytes(kind_b, b))]), image_a.size


def random_c(n: int, d: str = "f32") -> np.ndarray:
    values = (RNG.standard_normal((128, n)) * 8).astype(RESULTS[d][1])
    return values.view(np.uint16).astype(np.uint32) if d == "f16" else values.view(np.uint32)


def numbers(words: np.ndarray, d: str) -> np.ndarray:
    return (words & 0xFFFF).astype(np.uint16).view(np.float16) if d == "f16" else words.view(RESULTS[d][1])


def wide(matrix: np.ndarray) -> np.ndarray:
    return matrix.astype(np.float64)


CASES = [
    ("f16", "f32", "f16", "f16", 128, 64),
    ("f16", "f16", "f16", "f16", 128, 16),
    ("f16", "f32", "bf16", "bf16", 64, 8),
    ("tf32", "f32", "tf32", "tf32", 128, 32),
    ("f8f6f4", "f32", "e4m3", "e5m2", 128, 128),
    ("f8f6f4", "f16", "e5m2", "e4m3", 64, 32),
    ("f8f6f4", "f32", "e2m1", "e4m3", 128, 32),
    ("f8f6f4", "f32", "e3m2", "e2m3", 128, 16),
    ("i8", "s32", "s8", "u8", 128, 32),
]


def rows_of(m: int, upper: int = 0) -> np.ndarray:
    """The lane of each row of D."""
    return np.array([row if m == 128 else row // 16 * 32 + row % 16 + upper for row in range(m)])


@pytest.mark.parametrize(("kind", "d", "kind_a", "kind_b", "m", "n"), CASES)
def test_values(kind, d, kind_a, kind_b, m, n):
    a, b, image, at = tiles(kind_a, kind_b, m, n)
    c = random_c(n, d)
    _, y = run(INIT + mma(kind, idesc(m, n, d, kind_a, kind_b)) + COMMIT + WAIT + READ, image, c, at)
    lanes = rows_of(m)
    want = numbers(c, d).copy()
    want[lanes] = (wide(a) @ wide(b).T + wide(numbers(c, d)[lanes])).astype(RESULTS[d][1])
    np.testing.assert_array_equal(numbers(y, d), want)


@every_policy
def test_steps_of_k_follow_each_other(policy):
    """Four instructions on one accumulator need nothing between them; the first ignores what D held."""
    a, b = RNG.standard_normal((128, 64)).astype(np.float16), RNG.standard_normal((32, 64)).astype(np.float16)
    image = np.concatenate([swizzled(a), swizzled(b)])
    core = "setp.ne.u32 %p, %z0, 0;"
    for step in range(4):
        core += mma("f16", idesc(128, 32), keep="%p" if step == 0 else "%keep") + "add.u64 %da, %da, 2; add.u64 %db, %db, 2;"
    result, y = run(core + COMMIT + WAIT + READ, image, random_c(32), 16384, policy=policy)
    want = np.zeros((128, 32), np.float32)
    for step in range(4):
        part = slice(16 * step, 16 * step + 16)
        want = (wide(a[:, part]) @ wide(b[:, part]).T + want).astype(np.float32)
    np.testing.assert_array_equal(y.view(np.float32), want)
    assert result.counters["tcgen05_mma"] == 4


@pytest.mark.parametrize("upper", [0, 16])
def test_64_rows_in_either_half_of_the_lanes(upper):
    a, b, image, at = tiles("f16", "f16", 64, 16)
    c = random_c(16)
    core = INIT + f"add.u32 %tm, %tm, {upper << 16};" + mma("f16", idesc(64, 16)) + f"sub.u32 %tm, %tm, {upper << 16};"
    _, y = run(core + COMMIT + WAIT + READ, image, c, at)
    want = c.view(np.float32).copy()
    lanes = rows_of(64, upper)
    want[lanes] = (wide(a) @ wide(b).T + want[lanes]).astype(np.float32)
    np.testing.assert_array_equal(y.view(np.float32), want)


@pytest.mark.parametrize("m", [128, 64])
def test_a_in_tensor_memory(m):
    """A's 32 bytes of a row are 8 columns."""
    a, b, image, at = tiles("f16", "f16", m, 16)
    c = np.zeros((128, 32), np.uint32)
    c[:, :16] = random_c(16)
    c[rows_of(m), 16:24] = as_bytes("f16", a).view(np.uint32)
    core = INIT + "add.u32 %z1, %tm, 16;" + mma("f16", idesc(m, 16), a="[%z1]") + COMMIT + WAIT + READ
    _, y = run(core, image, c, at)
    want = c[:, :16].view(np.float32).copy()
    want[rows_of(m)] = (wide(a) @ wide(b).T + want[rows_of(m)]).astype(np.float32)
    np.testing.assert_array_equal(y[:, :16].view(np.float32), want)


def test_negation_scale_of_d_and_disabled_lanes():
    a, b, image, at = tiles("f16", "f16", 128, 16)
    c = random_c(16)
    mask = "mov.b32 %w0, 5; mov.b32 %w1, 0; mov.b32 %w2, 2147483648; mov.b32 %w3, 0;"  # lanes 0, 2, 95
    bits = idesc(128, 16, rest=1 << 13)
    core = INIT + mask + mma("f16", bits, extra="{%w0, %w1, %w2, %w3}, ", after=", 3") + COMMIT + WAIT + READ
    _, y = run(core, image, c, at)
    want = (-wide(a) @ wide(b).T + wide(c.view(np.float32)) / 8).astype(np.float32)
    want[[0, 2, 95]] = c.view(np.float32)[[0, 2, 95]]
    np.testing.assert_array_equal(y.view(np.float32), want)


@pytest.mark.parametrize(
    ("shape", "rows", "size", "lanes"),
    [
        ("128x256b", 128, 32, [np.arange(128)]),
        ("128x128b", 128, 16, [np.arange(128)]),
        ("64x128b.warpx2::02_13", 64, 16, [np.r_[0:64], np.r_[64:128]]),
        ("64x128b.warpx2::01_23", 64, 16, [np.r_[0:32, 64:96], np.r_[32:64, 96:128]]),
        ("32x128b.warpx4", 32, 16, [np.r_[s : s + 32] for s in (0, 32, 64, 96)]),
    ],
)
@pytest.mark.parametrize("policy", EVERY_POLICY[:2], ids=["late", "early"])
def test_cp(shape, rows, size, lanes, policy):
    """Without swizzle: 8 rows of 16 bytes are contiguous, the next 8 are SBO further, the next 16 bytes LBO."""
    source = RNG.integers(0, 256, (rows, size)).astype(np.uint8)
    image = np.zeros(rows * size, np.uint8)
    for row in range(rows):
        for part in range(size // 16):
            at = part * rows * 16 + row * 16
            image[at : at + 16] = source[row, 16 * part : 16 * part + 16]
    plain = 1 << 46 | 128 >> 4 << 32 | rows * 16 >> 4 << 16
    core = f"add.u64 %dc, %at, {plain}; @%one tcgen05.cp.cta_group::1.{shape} [%tm], %dc;" + COMMIT + WAIT + READ
    result, y = run(core, image, np.zeros((128, size // 4), np.uint32), policy=policy)
    want = np.zeros((128, size // 4), np.uint32)
    for target in lanes:
        want[target] = source.view(np.uint32)
    np.testing.assert_array_equal(y, want)
    assert result.counters["tcgen05_cp"] == 1


# Mistakes.


def fault(core: str, policy=None, **how) -> str:
    """The findings of a kernel of 128 x 16 x 16."""
    _, _, image, at = tiles("f16", "f16", 128, 16)
    with pytest.raises(KernelFault) as caught:
        run(core, image, random_c(16), how.pop("desc_b", at), policy=policy, **how)
    return str(caught.value)


ONE = mma("f16", idesc(128, 16))


def test_the_kernel_itself_is_right():
    for policy in EVERY_POLICY:
        _, _, image, at = tiles("f16", "f16", 128, 16)
        run(INIT + ONE + COMMIT + WAIT + READ, image, random_c(16), at, policy=policy)


@every_policy
def test_reading_d_without_wait(policy):
    text = fault(INIT + ONE + COMMIT + READ + WAIT, policy)
    assert "in-flight: reads lanes" in text
    assert "while tcgen05.mma of warp 0 at PTX line" in text
    assert "may still be writing it: a tcgen05.commit after it, and a wait for the mbarrier that it arrives on, must come" in text


@every_policy
def test_commit_before_mma(policy):
    text = fault(INIT + COMMIT + ONE + WAIT + READ, policy)
    assert "may still be writing it: a tcgen05.commit after it" in text


@every_policy
def test_accumulating_while_another_warp_reads(policy):
    """The second mma must come after everybody's wait::ld, which a barrier says."""
    core = INIT + ONE + COMMIT + WAIT + READ + "{}" + ONE + COMMIT
    core += "V: mbarrier.try_wait.parity.shared::cta.b64 %ok, [%bar], 1; @!%ok bra V;"
    text = fault(core.format(""), policy)
    assert "accumulates in lanes 0 to 127, columns" in text
    assert "tcgen05.ld of warp" in text
    _, _, image, at = tiles("f16", "f16", 128, 16)
    run(core.format(FENCES), image, random_c(16), at, policy=policy)


@every_policy
@pytest.mark.parametrize(
    ("init", "message"),
    [
        (STORE + FENCES, "reads D, lanes 0 to 127, columns 0 to 15 of tensor memory while tcgen05.st of warp"),
        (STORE + "tcgen05.wait::st.sync.aligned;", "no barrier orders this after its tcgen05.wait::st"),
        ("", "uninitialised: reads D, lanes 0 to 127, columns 0 to 15 of tensor memory; nothing has written lane 0, column 0"),
    ],
    ids=["no wait::st", "no barrier", "no store"],
)
def test_d_is_not_ready(init, message, policy):
    text = fault(init + ONE + COMMIT + WAIT + READ, policy)
    if policy.schedule == "lockstep" or "no store" in message:
        assert message in text
    assert "tcgen05." in text


@every_policy
def test_operands_without_proxy_fence(policy):
    assert "proxy-fence: the async proxy accesses" in fault(INIT + ONE + COMMIT + WAIT + READ, policy, fence="")


@every_policy
def test_overwriting_operands_in_flight(policy):
    text = fault(INIT + ONE + COMMIT + "st.shared.b32 [%base], %z0;" + WAIT + READ, policy)
    assert "in-flight: writes" in text or "race: writes 4 bytes at byte 0 of shared tile" in text
    assert "tcgen05 of warp 0" in text or "asynchronous" in text


@every_policy
def test_overwriting_operands_after_the_wait_is_right(policy):
    _, _, image, at = tiles("f16", "f16", 128, 16)
    writes = f"@%one st.shared.b32 [%base], %z0; @%one st.shared.b32 [%base+{at}], %z0;"
    run(INIT + ONE + COMMIT + WAIT + writes + READ, image, random_c(16), at, policy=policy)


@every_policy
def test_commit_does_not_publish_what_its_thread_wrote(policy):
    """The arrival is the pipeline's: it says that mma and cp are complete, nothing else."""
    core = (
        INIT
        + "bar.sync 0; @%one st.shared.b32 [%slot], %z0;"
        + ONE
        + COMMIT
        + WAIT
        + "@!%first ld.shared.b32 %z1, [%slot];"
        + READ
    )
    text = fault(core, policy)
    assert "race: reads 4 bytes at byte 0 of shared slot (4 bytes), which warp 0 wrote" in text


@every_policy
def test_deallocation_with_mma_in_flight(policy):
    end = END.replace(FENCES, "bar.sync 0;")
    text = fault(INIT + ONE, policy, end=end)
    assert "in-flight: deallocates lanes 0 to 127, columns" in text
    assert "of tensor memory while tcgen05.mma of warp 0 at PTX line" in text


@every_policy
def test_invalidating_an_mbarrier_that_commit_may_signal(policy):
    other, invalidate = COMMIT.replace("[%bar]", "[%bar+8]"), "@%one mbarrier.inval.shared::cta.b64 [%bar+8];"
    text = fault(INIT + ONE + other + COMMIT + invalidate + WAIT + READ, policy)
    assert "mbarrier: an mbarrier (8 bytes at byte 8 of shared bar (16 bytes)) is invalidated while tcgen05.commit" in text
    assert "wait for its phase, or for a later one, first" in text
    _, _, image, at = tiles("f16", "f16", 128, 16)
    run(INIT + ONE + other + COMMIT + WAIT + invalidate + READ, image, random_c(16), at, policy=policy)


@every_policy
def test_a_commit_that_nobody_makes(policy):
    text = fault(INIT + ONE + WAIT + READ, policy)
    assert "deadlock" in text
    assert "which lacks 1 arrivals" in text


def test_every_thread_issues():
    text = fault(INIT + ONE.removeprefix("@%one ") + COMMIT + WAIT + READ)
    assert "divergence: tcgen05.mma executed by several threads of a warp: each of them starts one of its own" in text


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (idesc(96, 16), "M = 96; cta_group::1 has 64 and 128"),
        (idesc(128, 24), "N = 24; it is a multiple of 16 up to 256"),
        (idesc(128, 16) | 3 << 7, "formats 3 of A and 0 of B"),
        (idesc(128, 16, "s32"), "format 2 of D does not go with f16 and f16"),
        (idesc(128, 16, "f16", "bf16", "bf16"), "format 0 of D does not go with bf16"),
        (idesc(128, 16) | 4, "sparse"),
    ],
)
def test_instruction_descriptors(bits, message):
    text = fault(INIT + mma("f16", bits) + COMMIT + WAIT + READ)
    assert "descriptor: the instruction descriptor 0x" in text
    assert message in text


def test_operands_out_of_place():
    text = fault(INIT + "add.u32 %tm, %tm, 1048576;" + ONE + COMMIT + WAIT + READ)
    assert "D starts at lane 16: with M = 128 it may start at 0" in text
    text = fault(INIT + "add.u32 %tm, %tm, 250;" + ONE + COMMIT + WAIT + READ)
    assert (
        "out-of-bounds: D takes lanes 0 to 127, columns 250 to 265 of tensor memory, and column 256 on is not allocated" in text
    )
    assert "out-of-bounds: B (16 rows" in fault(INIT + ONE + COMMIT + WAIT + READ, desc_b=16384 + 4096)
    text = fault(INIT + "xor.b64 %da, %da, 70368744177664;" + ONE + COMMIT + WAIT + READ)
    assert "the descriptor of A: bits 46-48 are 0, tcgen05 wants 1 (is this a descriptor for wgmma?)" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcgen05.mma.cta_group::2.kind::f16 [%r0], %rd0, %rd0, %r0, %p;", r"one of \.cta_group::1 is missing"),
        ("tcgen05.mma.cta_group::1.kind::mxf8f6f4 [%r0], %rd0, %rd0, %r0, %p;", "have block scales, others do not"),
        ("tcgen05.mma.cta_group::1.kind::mxf4.block_scale.block16 [%r0], %rd0, %rd0, %r0, [%r0], [%r0], %p;", "has no .block16"),
        ("tcgen05.mma.cta_group::1.kind::f16.ashift [%r0], [%r0], %rd0, %r0, %p;", "unknown modifier .ashift"),
        ("tcgen05.mma.sp.cta_group::1.kind::f16 [%r0], %rd0, %rd0, %r0, %p;", "unknown modifier .sp"),
        ("tcgen05.mma.cta_group::1.kind::f8f6f4 [%r0], %rd0, %rd0, %r0, %p, 2;", "too many operands"),
        ("tcgen05.commit.cta_group::1.mbarrier::arrive::one.multicast::cluster.b64 [%rd0], 3;", "unknown modifier .multicast"),
    ],
)
def test_forms_that_do_not_exist(text, message):
    with pytest.raises(PTXError, match=message):
        load(entry(f".reg .b32 %r<1>; .reg .b64 %rd<1>; .reg .pred %p; {text} ret;", ""))


# Fences.


STRICT = [Policy(p.schedule, p.completion, p.seed, tcgen05_fences="explicit") for p in EVERY_POLICY]
strict = pytest.mark.parametrize("policy", STRICT, ids=lambda p: f"{p.schedule}-{p.completion}")
AGAIN = FENCES + ONE + COMMIT + WAIT.replace("W:", "V:").replace("bra W", "bra V").replace("], 0", "], 1")


@strict
def test_explicit_fences_where_the_isa_wants_them(policy):
    _, _, image, at = tiles("f16", "f16", 128, 16)
    run(INIT + ONE + COMMIT + WAIT + READ + AGAIN + READ, image, random_c(16), at, policy=policy)


BEFORE, AFTER = "tcgen05.fence::before_thread_sync;", "tcgen05.fence::after_thread_sync;"


@strict
@pytest.mark.parametrize(
    ("core", "act"),
    [
        (INIT.replace(AFTER, "") + ONE + COMMIT + WAIT + READ, "reads D, "),
        (INIT.replace(BEFORE, "") + ONE + COMMIT + WAIT + READ, "reads D, "),
        (INIT + ONE + COMMIT + WAIT.replace(AFTER, "") + READ, "reads "),
        (INIT + ONE + COMMIT + WAIT + READ + AGAIN.replace(BEFORE, "", 1), "accumulates in "),
    ],
    ids=["after stores", "before mma", "after the wait", "before the next mma"],
)
def test_a_fence_is_missing(core, act, policy):
    """Found with explicit fences only."""
    text = fault(core, policy)
    assert f"tcgen05-fence: {act}lanes" in text
    assert "lacks a fence: tcgen05.fence::after_thread_sync between" in text
    _, _, image, at = tiles("f16", "f16", 128, 16)
    run(core, image, random_c(16), at, policy=Policy(policy.schedule, policy.completion, policy.seed))
