"""Tensor memory: fragments by the formulas of the PTX ISA, allocation, and every way to touch it in the wrong order."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, PTXError, load
from .testing import entry, run_text

RNG = np.random.default_rng(0)
every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
PARAMETERS = ".param .u64 x, .param .u64 y"


def registers(prefix: str, count: int) -> str:
    return "{" + ", ".join(f"%{prefix}{i}" for i in range(count)) + "}"


ALLOC = "@%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%slot], 64;"
DEALLOC = "bar.sync 0; @%first tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tm, 64;"
WAIT_ST = "tcgen05.wait::st.sync.aligned;"
WAIT_LD = "tcgen05.wait::ld.sync.aligned;"
FENCES = "tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync;"


def program(core: str, count: int = 1, alloc: str = ALLOC, dealloc: str = DEALLOC) -> str:
    """Registers %a<i> hold `count` words of x for each thread, %b<i> go to y; %mine is %tm, the address, at the warp's lanes."""
    word = lambda verb, pointer, prefix: "".join(  # noqa: E731
        f"ld.global.b32 %{prefix}{i}, [%{pointer}+{4 * i}];"
        if verb == "ld"
        else f"st.global.b32 [%{pointer}+{4 * i}], %{prefix}{i};"
        for i in range(count)
    )
    return f""".reg .b32 %id, %warp, %slot, %tm, %mine, %t<4>, %a<{count}>, %b<{count}>;
    .reg .b64 %x, %y, %at; .reg .pred %first, %p<4>;
    .shared .align 4 .b8 slot[8]; mov.u32 %id, %tid.x; shr.u32 %warp, %id, 5; setp.eq.u32 %first, %warp, 0; mov.u32 %slot, slot;
    ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; mul.wide.u32 %at, %id, {4 * count}; add.u64 %x, %x, %at; add.u64 %y, %y, %at;
    {alloc} {word("ld", "x", "a")} bar.sync 0; ld.shared.b32 %tm, [%slot]; and.b32 %mine, %warp, 3; shl.b32 %mine, %mine, 21;
    add.u32 %mine, %mine, %tm; {core} {word("st", "y", "b")} {dealloc} ret;"""


def run(core: str, count: int = 1, block: int = 128, check: bool = True, policy=None, **how) -> np.ndarray:
    x = np.arange(block * count, dtype=np.uint32).reshape(block, count) + 1
    y = np.zeros_like(x)
    body = program(core, count, **how)
    run_text(body, PARAMETERS, [x, Buffer(y, "y", initialised=False)], block=block, policy=policy, check=check)
    return y


def fault(core: str, **how) -> str:
    with pytest.raises(KernelFault) as caught:
        run(core, **how)
    return str(caught.value)


def store(count: int = 1, address: str = "%mine", shape: str = "32x32b", prefix: str = "a") -> str:
    return f"tcgen05.st.sync.aligned.{shape}.x{count}.b32 [{address}], {registers(prefix, count)};"


def load_words(count: int = 1, address: str = "%mine", shape: str = "32x32b") -> str:
    return f"tcgen05.ld.sync.aligned.{shape}.x{count}.b32 {registers('b', count)}, [{address}];"


# Fragments.


def place(shape: str, thread: int, register: int) -> tuple[int, int]:
    """(lane, column) in the figures of the PTX ISA, "Matrix fragments for shape ..."."""
    group, t = thread // 4, thread % 4
    if shape == "32x32b":
        return thread, register
    if shape == "16x64b":
        return group + 8 * (t % 2), 2 * register + t // 2
    if shape == "16x128b":
        return group + 8 * (register % 2), register // 2 * 4 + t
    assert shape == "16x256b"
    return group + 8 * (register // 2 % 2), register // 4 * 8 + 2 * t + register % 2


@pytest.mark.parametrize(
    ("shape", "repeat", "count"), [("32x32b", 8, 8), ("16x64b", 4, 4), ("16x128b", 2, 4), ("16x256b", 2, 8), ("16x256b", 1, 4)]
)
@pytest.mark.parametrize("upper", [False, True])
def test_fragments(shape, repeat, count, upper):
    """Stored as 32x32b, loaded in another shape, and the other way round."""
    if upper and shape == "32x32b":
        pytest.skip("it takes all 32 lanes")
    columns = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8}[shape] * repeat
    most = max(columns, count)
    at = "add.u32 %t0, %mine, 1048576;" if upper else "mov.b32 %t0, %mine;"  # 16 lanes further
    head = f"{store(most)} {WAIT_ST} {at}"
    there = run(
        f"{head} tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {registers('b', count)}, [%t0]; {WAIT_LD}"
        + "".join(f"mov.b32 %b{i}, 0;" for i in range(count, most)),
        most,
    )
    x = np.arange(128 * most, dtype=np.uint32).reshape(128, most) + 1
    for thread in range(128):
        for register in range(count):
            lane, column = place(shape, thread % 32, register)
            assert there[thread, register] == x[thread // 32 * 32 + lane + 16 * upper, column]
    other = f"tcgen05.st.sync.aligned.{shape}.x{repeat}.b32 [%t0], {registers('a', count)}; {WAIT_ST}"
    back = run(f"{head} {other} {load_words(most)} {WAIT_LD}", most)
    want = x.copy()
    for thread in range(128):
        for register in range(count):
            lane, column = place(shape, thread % 32, register)
            want[thread // 32 * 32 + lane + 16 * upper, column] = x[thread, register]
    np.testing.assert_array_equal(back, want)


def test_split_halves():
    """.16x32bx2: the upper 16 threads have their columns elsewhere, in the same 16 lanes."""
    core = f"{store(8)} {WAIT_ST} tcgen05.ld.sync.aligned.16x32bx2.x2.b32 {{%b0, %b1}}, [%mine], 5; {WAIT_LD}"
    got = run(core + "".join(f"mov.b32 %b{i}, 0;" for i in range(2, 8)), 8)
    x = np.arange(128 * 8, dtype=np.uint32).reshape(128, 8) + 1
    for thread in range(128):
        lane, start = thread // 32 * 32 + thread % 16, 5 * (thread % 32 // 16)
        np.testing.assert_array_equal(got[thread, :2], x[lane, start : start + 2])


def test_packed_halves():
    """A register holds the low halves of two columns."""
    packed = f"tcgen05.ld.sync.aligned.32x32b.x2.pack::16b.b32 {{%b0, %b1}}, [%mine]; {WAIT_LD} mov.b32 %b2, 0; mov.b32 %b3, 0;"
    got = run(f"{store(4)} {WAIT_ST} {packed}", 4)
    x = np.arange(128 * 4, dtype=np.uint32).reshape(128, 4) + 1
    np.testing.assert_array_equal(got[:, :2], (x[:, ::2] & 0xFFFF) | x[:, 1::2] << 16)
    spread = "tcgen05.st.sync.aligned.32x32b.x2.unpack::16b.b32 [%mine], {%a0, %a1};"
    got = run(f"mad.lo.u32 %a0, %id, 65537, 7; {spread} {WAIT_ST} {load_words(4)} {WAIT_LD}", 4)
    value = np.arange(128) * 65537 + 7
    np.testing.assert_array_equal(got[:, 0] & 0xFFFF, value & 0xFFFF)
    np.testing.assert_array_equal(got[:, 1] & 0xFFFF, value >> 16)


# Order.


@every_policy
def test_another_warp_reads_after_wait_and_barrier(policy):
    """Warps 0 and 4 reach the same lanes."""
    core = f"""setp.lt.u32 %p0, %warp, 4; @!%p0 bra READ; {store()} {WAIT_ST} READ: {FENCES} {load_words()} {WAIT_LD}"""
    y = run(core, block=256, policy=policy)
    np.testing.assert_array_equal(y[:, 0], np.arange(256) % 128 + 1)


READ = load_words() + WAIT_LD
SPLIT = "setp.lt.u32 %p0, %warp, 4; @!%p0 bra READ; {} READ: {} setp.ge.u32 %p1, %warp, 4; mov.b32 %b0, 0; @!%p1 bra END; {} END:"


@every_policy
@pytest.mark.parametrize(
    ("first", "between", "second", "message"),
    [
        (store(), "bar.sync 0;", READ, r"in-flight: reads lanes .* while tcgen05.st of warp . at PTX .*: tcgen05.wait::st must"),
        (store() + WAIT_ST, "", READ, r"race: reads lanes .*which tcgen05.st of warp . .* has written; no barrier orders"),
        (store() + WAIT_ST, "", store() + WAIT_ST, "race: writes lanes .*has written; no barrier orders"),
        (store() + WAIT_ST + READ, "", store() + WAIT_ST, "race: writes lanes .*tcgen05.st of warp . .*has written"),
        (store() + WAIT_ST + load_words(), "bar.sync 0;", store() + WAIT_ST,
         r"in-flight: writes lanes .* while tcgen05.ld of warp . at PTX line \d+ may still be reading it: tcgen05.wait::ld must"),
    ],
    ids=["no wait::st", "no barrier", "two stores", "store after load", "no wait::ld"],
)  # fmt: skip
def test_order_between_warps(first, between, second, message, policy):
    """The second four warps touch what the first four wrote or read. Whatever the schedule is, it is found."""
    if "race" in message and policy.schedule == "random":
        message = "(race|in-flight): (reads|writes) lanes"  # which of two unordered accesses comes first depends on the schedule
    with pytest.raises(KernelFault, match=message):
        run(SPLIT.format(first, between, second), block=256, policy=policy)


@every_policy
def test_a_warps_own_store_needs_a_wait(policy):
    text = fault(f"{store()} {load_words()} {WAIT_LD} {WAIT_ST}", policy=policy)
    assert "in-flight: reads lanes" in text
    assert "tcgen05.wait::st must come after it" in text


@every_policy
def test_registers_of_a_load_need_a_wait(policy):
    text = fault(f"{store()} {WAIT_ST} {load_words()} add.u32 %b0, %b0, 1; {WAIT_LD}", policy=policy)
    assert "in-flight: writes register %b0 while tcgen05.ld at PTX line" in text
    assert "tcgen05.wait::ld must come before" in text
    text = fault(f"{store()} {WAIT_ST} {load_words()} add.u32 %t0, %b0, 1; {WAIT_LD}", policy=policy)
    assert "in-flight: reads register %b0 while" in text
    text = fault(f"{store()} {WAIT_ST} {load_words()} {load_words()} {WAIT_LD}", policy=policy)
    assert "in-flight: writes register %b0 while tcgen05.ld" in text


@every_policy
def test_nobody_waits(policy):
    text = fault(f"{store()} {WAIT_ST} tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%t1}}, [%mine]; mov.b32 %b0, 0;", policy=policy)
    assert "the kernel ended while a tcgen05.ld operation was in flight" in text
    text = fault(f"{store()} mov.b32 %b0, 0;", policy=policy)
    assert "the kernel ended while a tcgen05.st operation was in flight" in text


def test_uninitialised():
    text = fault(f"{store()} {WAIT_ST} add.u32 %t0, %mine, 1; {load_words(1, '%t0')} {WAIT_LD}")
    assert "uninitialised: reads lanes 0 to 31, columns 1 to 1 of tensor memory; nothing has written lane 0, column 1" in text


# Places.


def test_lanes_of_other_warps():
    text = fault(f"{store(1, '%tm')} {WAIT_ST} mov.b32 %b0, 0;")
    assert "warp 1 accesses tensor memory from lane 0 on with .32x32b; it reaches lanes 32 to 63" in text
    text = fault(f"add.u32 %t0, %mine, 524288; {store(1, '%t0', '16x64b')} {WAIT_ST} mov.b32 %b0, 0;")
    assert "warp 0 accesses tensor memory from lane 8 on with .16x64b" in text
    assert "at a multiple of 16" in text


def test_columns_beyond():
    text = fault(f"add.u32 %t0, %mine, 63; {store(2, '%t0', prefix='t')} {WAIT_ST} mov.b32 %b0, 0;")
    assert (
        "out-of-bounds: tcgen05.st takes lanes 0 to 31, columns 63 to 64 of tensor memory, and column 64 on is not alloc" in text
    )
    text = fault(f"add.u32 %t0, %mine, 511; {store(2, '%t0', prefix='t')} {WAIT_ST} mov.b32 %b0, 0;")
    assert "which has 128 lanes and 512 columns" in text
    second = "@%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%slot], 64; bar.sync 0;"
    text = fault(f"{second} add.u32 %t0, %mine, 63; {store(2, '%t0', prefix='t')} {WAIT_ST} mov.b32 %b0, 0;")
    assert "of which column 64 on belongs to another allocation" in text


def test_addresses_differ_within_a_warp():
    text = fault(f"add.u32 %t0, %mine, %id; {store(1, '%t0')} {WAIT_ST} mov.b32 %b0, 0;")
    assert "the threads of a warp give different tensor memory addresses" in text


# Allocation.


def test_random_schedules_allocate_anywhere():
    places = {int(run("mov.b32 %b0, %tm;", policy=EVERY_POLICY[3].__class__("random", "late", seed))[0, 0]) for seed in range(8)}
    assert len(places) > 2
    assert all(p % 64 == 0 and p < 512 for p in places)
    assert run("mov.b32 %b0, %tm;")[0, 0] == 0


def test_leak():
    text = fault("mov.b32 %b0, 0;", dealloc="")
    assert "resources: the CTA ended with 64 tensor memory columns allocated: tcgen05.dealloc is missing" in text
    assert "tcgen05.alloc" in text


def test_use_after_deallocation():
    text = fault(f"{DEALLOC} bar.sync 0; {store()} {WAIT_ST} mov.b32 %b0, 0;", dealloc="")
    assert "freed: tcgen05.st takes lanes 0 to 31, columns 0 to 0 of tensor memory, and column 0 on is not allocated: PTX" in text
    assert "has deallocated it" in text


@every_policy
def test_deallocation_too_early(policy):
    text = fault(f"{store()} {WAIT_ST} mov.b32 %b0, 0;", dealloc=DEALLOC.removeprefix("bar.sync 0;"), policy=policy)
    assert "race: deallocates lanes 0 to 127" in text or "freed: tcgen05.st" in text


@pytest.mark.not_assembled("a number of columns that does not exist")
@pytest.mark.parametrize("columns", [16, 96, 1024])
def test_counts_that_do_not_exist(columns):
    message = f"resources: {columns} tensor memory columns: it must be a power of two from 32 to 512"
    assert message in fault("mov.b32 %b0, 0;", alloc=ALLOC.replace("64", str(columns)))


def test_more_than_there_is():
    again = ALLOC.replace("64", "512") + "bar.sync 0;"
    text = fault(f"{again} mov.b32 %b0, 0;")
    assert "deadlock" in text
    assert "threads wait for 512 free columns of tensor memory (64 of 512 are allocated)" in text


@every_policy
def test_alloc_waits_for_columns(policy):
    """Warp 1 asks for all columns and gets them when warp 0 has given its own back."""
    core = """setp.eq.u32 %p0, %warp, 1; mov.b32 %b0, 7;
    @%p0 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%slot+4], 512;
    @%first tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tm, 64;
    bar.sync 0; ld.shared.b32 %b0, [%slot+4]; @%p0 tcgen05.dealloc.cta_group::1.sync.aligned.b32 0, 512;"""
    assert (run(core, policy=policy, dealloc="") == 0).all()


def test_wrong_deallocations():
    text = fault("mov.b32 %b0, 0;", dealloc=DEALLOC.replace("64", "32"))
    assert "deallocates 32 tensor memory columns from 0 on, which is no allocation; there are: 64 from 0" in text
    text = fault("mov.b32 %b0, 0;", dealloc=DEALLOC + DEALLOC)
    assert "deallocates 64 tensor memory columns from 0 on, which is no allocation; there are: none" in text


def test_alloc_after_giving_up_the_right():
    text = fault(f"@%first tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; bar.sync 0; {ALLOC} mov.b32 %b0, 0;")
    assert "tcgen05.alloc after the CTA has given up the right at PTX line" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcgen05.ld.sync.aligned.16x256b.x64.b32 {%r0}, [%r1];", r"\.16x256b\.x64 does not exist"),
        ("tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r0}, [%r1];", r"\.32x32b\.x2 has 2 registers"),
        ("tcgen05.st.sync.aligned.32x32b.x2.b32 [%r1], {%r0};", r"\.32x32b\.x2 has 2 registers"),
        ("tcgen05.cp.cta_group::1.32x128b [%r1], %rd0;", r"\.32x128b does not go with"),
        ("tcgen05.alloc.cta_group::2.sync.aligned.b32 [%r1], 32;", r"one of \.cta_group::1 is missing"),
        ("tcgen05.shift.cta_group::1.down [%r1];", "unknown instruction tcgen05"),
    ],
)
def test_forms_that_do_not_exist(text, message):
    with pytest.raises(PTXError, match=message):
        load(entry(f".reg .b32 %r<4>; .reg .b64 %rd<1>; {text} ret;", ""))
