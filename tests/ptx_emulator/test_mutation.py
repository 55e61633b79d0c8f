"""The share of deliberate mistakes that the emulator notices: printed, at least nine in ten, and not to fall."""

from __future__ import annotations

import pytest

from .equivalent_mutants import EQUIVALENT, MISSED
from .mutation import MUTATORS, Score, mutants, run, statements, table, total_score
from .mutation_subjects import cuda_subjects, triton_subjects, why_no_cuda, why_no_triton

LEAST_SCORE = 0.9


def check(scores: list[Score]) -> None:
    """Every survivor is explained."""
    for score in scores:
        known = EQUIVALENT.get(score.subject, {}) | MISSED.get(score.subject, {})
        unexplained = [str(m) for m in score.survivors if m.key not in known]
        assert not unexplained, (
            f"{score.subject}: these mutants survive and equivalent_mutants.py does not say why: {unexplained}"
        )
    assert total_score(scores) >= LEAST_SCORE


FAMILIES = {"cuda": (cuda_subjects, why_no_cuda), "triton": (triton_subjects, why_no_triton)}


def scores_of(family: str, thorough: bool, record_property) -> list[Score]:
    subjects, why_not = FAMILIES[family]
    if (why := why_not()) is not None:
        pytest.skip(why)
    scores = [run(subject, EQUIVALENT.get(subject.name, {}) if thorough else ()) for subject in subjects(thorough)]
    record_property("table", f"{'all' if thorough else 'a sample of the'} mutants of kernels by {family}:\n{table(scores)}")
    check(scores)
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_of_the_mutants(family, record_property, request):
    if any(item.name.startswith("test_all_mutants") for item in request.session.items):
        pytest.skip("test_all_mutants runs them all")
    scores_of(family, False, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_mutants(family, record_property):
    for score in scores_of(family, True, record_property):
        known = EQUIVALENT.get(score.subject, {}) | MISSED.get(score.subject, {})
        idle = set(known) - {m.key for m in score.survivors}
        assert not idle, f"{score.subject}: these are explained as survivors but are caught: {idle}"


PTX = """.version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 p0)
{
    .reg .pred %p<3>; .reg .b32 %r<9>;
    // bar.sync 1;
    .loc 1 7 3
    setp.lt.s32 %p1, %r1, 9;
LOOP:
    @%p1 st.global.v2.b32 [ %rd1 + 0 ], { %r1, %r2 };
    { .reg .pred done; WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%r3], %r4; @!done bra WAIT; }
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 512;
    cp.async.wait_group 0x1;
    bar.sync 0;
}
"""


def test_statements_are_found_in_the_text():
    names = [s.name for s in statements(PTX, "kernel")]
    wanted = ["setp.lt.s32", "st.global.v2.b32", "mbarrier.try_wait.parity.shared::cta.b64", "bra"]
    wanted += ["mbarrier.arrive.expect_tx.shared::cta.b64", "cp.async.wait_group", "bar.sync"]
    assert [n for n in names if not n.startswith("reg")] == wanted


def test_what_each_mutator_does():
    made = {name: [m for m in mutants(PTX, "kernel") if m.mutator == name] for name in MUTATORS}
    assert [m.line for m in made["barrier"]] == [15]
    assert [m.after for m in made["wait"]] == ["setp.eq.u32 done, 0, 0;", ""]
    assert [m.after for m in made["weaker wait"]] == ["cp.async.wait_group 2;"]
    assert [m.after.split()[-1] for m in made["expect_tx"]] == ["256;", "1024;"]
    assert [m.after for m in made["bounds"]] == ["setp.eq.u32 %p1, 0, 0;", "st.global.v2.b32 [ %rd1 + 0 ], { %r1, %r2 };"]
    assert made["parity"][0].after.startswith("xor.b32 %r4, %r4, 1; mbarrier.try_wait")
    for each in made.values():
        for mutant in each:
            assert mutant.ptx != PTX
            assert mutant.after in mutant.ptx
