"""What a launch may use: registers and setmaxnreg, clusters; and the source lines that reports name."""

from __future__ import annotations

import pytest

from .api import EVERY_POLICY, KernelFault, Policy, PTXError, launch, load
from .testing import entry, run_text

every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")


def run(body: str, directive: str = ".maxntid 384, 1, 1", block: int = 384, policy: Policy | None = None, **how):
    """A kernel whose warpgroup number is in %r0: %p<i> says that a thread belongs to warpgroup i."""
    head = ".reg .b32 %r<4>; .reg .pred %p<4>; mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 5; shr.u32 %r0, %r0, 7;"
    head += "".join(f"setp.eq.u32 %p{i}, %r0, {i};" for i in range(3))
    text = entry(head + body + "ret;", "", "sm_90a").replace("\n{\n", f" {directive}\n{{\n", 1)
    return launch(load(text)["kernel"], 1, block, [], policy=policy, **how)


def fault(body: str, **how) -> str:
    with pytest.raises(KernelFault) as caught:
        run(body, **how)
    return str(caught.value)


def change(warpgroup: int, verb: str, count: int) -> str:
    return f"@%p{warpgroup} setmaxnreg.{verb}.sync.aligned.u32 {count};"


@every_policy
def test_registers_pass_from_one_warpgroup_to_two(policy):
    """168 at launch: 128 threads give 128 each, 256 take 64 each. The takers come first in the program, and sleep."""
    run(change(0, "inc", 232) + change(1, "inc", 232) + change(2, "dec", 40), policy=policy)


@every_policy
def test_more_than_the_pool_will_ever_have(policy):
    text = fault(change(0, "inc", 240) + change(1, "inc", 232) + change(2, "dec", 40), policy=policy)
    assert "deadlock" in text
    assert "to get to 2" in text
    assert "168 a thread at launch are 64512 in all, setmaxnreg.dec gives to the pool" in text


def test_the_registers_of_the_launch_count():
    body = change(0, "inc", 232) + change(1, "inc", 232) + change(2, "dec", 40)
    run(body, directive=".maxnreg 168")
    run(body, directive=".maxntid 384, 1, 1 .minnctapersm 1")
    run(body, directive=".maxntid 384, 1, 1", registers=168)
    assert "128 a thread at launch are 49152 in all" in fault(body, directive=".maxnreg 128")
    assert "80 a thread at launch" in fault(body, directive=".maxntid 384, 1, 1 .minnctapersm 2")
    assert "144 a thread at launch" in fault(body, registers=142)


@pytest.mark.not_assembled("setmaxnreg in the wrong direction")
def test_wrong_direction():
    assert "resources: setmaxnreg.dec to 240 registers in a warp that has 168" in fault(change(0, "dec", 240))
    assert "resources: setmaxnreg.inc to 40 registers in a warp that has 168" in fault(change(0, "inc", 40))


def test_registers_at_launch_must_be_known():
    text = fault(change(0, "dec", 40), directive="")
    assert "resources: setmaxnreg in a kernel that says neither .maxnreg nor .maxntid" in text


@pytest.mark.parametrize("count", [16, 264, 100])
def test_counts_that_do_not_exist(count):
    with pytest.raises(PTXError, match=f"{count} registers: a multiple of 8 from 24 to 256 is needed"):
        run(change(0, "dec", count))


@every_policy
def test_part_of_a_warpgroup(policy):
    body = "setp.ne.u32 %p0, %r1, 2; setp.lt.and.u32 %p0, %r1, 4, %p0; @%p0 setmaxnreg.dec.sync.aligned.u32 40;"
    text = fault(body, policy=policy)
    assert "divergence: warp 2 ended without this setmaxnreg, which warp" in text


def test_different_instructions_in_a_warpgroup():
    body = "setp.eq.u32 %p0, %r1, 2; setp.ne.u32 %p1, %r1, 2; setp.lt.and.u32 %p1, %r1, 4, %p1;"
    text = fault(body + change(0, "dec", 40) + change(1, "dec", 40))
    assert "of a warpgroup execute different setmaxnreg: PTX line" in text


def test_no_whole_warpgroup():
    text = fault("setmaxnreg.dec.sync.aligned.u32 40;", block=192)
    assert "setmaxnreg in warp 4, which belongs to no whole warpgroup: the CTA has 6 warps" in text


def test_more_registers_than_there_are():
    assert "resources: 256 registers for each of 128 threads: a thread can have 255" in fault("", block=128, registers=256)
    text = fault("", registers=171)
    assert "resources: 171 registers for each of 384 threads" in text
    assert "a CTA 65536 (this one needs 67584)" in text
    run("", registers=168)


def test_clusters():
    def cluster(size: int, target: str = "sm_90a", **how):
        run_text("ret;", "", [], grid=size, cluster=size, target=target, **how)

    cluster(8)
    cluster(16, largest_cluster=16)
    with pytest.raises(KernelFault, match="resources: a cluster of 16 CTAs: 8 are allowed"):
        cluster(16)
    with pytest.raises(KernelFault, match="resources: sm_89 has no clusters"):
        cluster(2, "sm_89")


@pytest.mark.not_assembled("no debug section has the names of the functions")
def test_reports_name_the_callers_of_inlined_functions():
    """As nvcc writes it: the inner place is told by a .loc of its own, whose inlined_at names the outer one."""
    body = """.reg .b64 %rd; .loc 1 20 7
    mov.u64 %rd, 16; .loc 1 50 3, function_name $L0, inlined_at 1 20 7
    add.u64 %rd, %rd, 0; .loc 2 7 9, function_name $L1, inlined_at 1 50 3
    st.global.u32 [%rd], 1; ret;"""
    header = '.file 1 "kernel.cu"\n.file 2 "copy.h"'
    with pytest.raises(KernelFault, match=r"copy\.h:7, inlined at kernel\.cu:50, inlined at kernel\.cu:20"):
        run_text(body.replace("; .loc", ";\n.loc"), "", [], header=header)
