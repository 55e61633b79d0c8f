"""How many mistakes the emulator notices: known-good PTX is broken in one place at a time, and each mutant is run.

    python -m tests.ptx_emulator.mutation [SUBJECT ...]     the whole table

A mutant is caught if the emulator reports something or the result is wrong, under any of EVERY_POLICY. One that is not may be
equivalent: the mutation changes nothing that the kernel promises. Each of these is explained in equivalent_mutants.py.
The score is caught / (all - equivalent).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .api import EVERY_POLICY, KernelFault, Module, Policy, Result, load
from .equivalent_mutants import EQUIVALENT, MISSED
from .parse import parse
from .syntax import PTXError

Launch = Callable[[Module, Policy, int], tuple[bool, Result]]
LARGEST_STEPS = 50_000_000
LONGEST_DETOUR = 12  # instructions that a branch may jump over to count as the guard of what they do
STEPS_ALLOWED = 5  # times those of the kernel itself: a mutant that spins is stopped there

STATEMENT = re.compile(r"(?:\{[^{};]*\}|[^;{}])+;")  # a brace without a semicolon in it is a vector
LABELS = re.compile(r"^(?:\s*[$\w]+:(?!:))+")
PARTS = re.compile(r"^\s*(?P<guard>@!?[%$\w]+\s+)?(?P<name>[a-z]\w*(?:(?:\.|::)\w+)*)\s*(?P<operands>.*);$", re.DOTALL)
NOT_CODE = re.compile(r"//[^\n]*|/\*.*?\*/|^\s*\.(?:loc|file)\b[^\n]*", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """One instruction of the text: `start` to `end` is what a mutator may replace."""

    start: int
    end: int
    text: str
    guard: str
    name: str
    operands: str

    @property
    def arguments(self) -> list[str]:
        """Operands, split at the commas outside of brackets and braces."""
        found, depth = [""], 0
        for c in self.operands:
            depth += (c in "[{") - (c in "]}")
            if c == "," and depth == 0:
                found.append("")
            else:
                found[-1] += c
        return [f.strip() for f in found]

    def with_arguments(self, arguments: Sequence[str], guard: str | None = None) -> str:
        return f"{self.guard if guard is None else guard}{self.name} {', '.join(arguments)};"


@dataclass(frozen=True)
class Mutant:
    """`ordinal` counts the places that this mutator found in the kernel, so that a recompilation keeps the names."""

    mutator: str
    ordinal: int
    line: int
    before: str
    after: str
    ptx: str

    @property
    def key(self) -> str:
        return f"{self.mutator} {self.ordinal}"

    def __str__(self) -> str:
        return f"{self.key}: line {self.line}: {self.before}  ->  {self.after or 'nothing'}"


@dataclass(frozen=True)
class Subject:
    """A kernel that is right, and `launch(module, policy, largest_steps)`, which says whether its values are.

    per_mutator: mutants of each kind at most, evenly spread; None for all.
    """

    name: str
    ptx: str
    entry: str
    launch: Launch
    per_mutator: int | None = None


def statements(ptx: str, entry: str) -> Iterator[Statement]:
    """The instructions of one kernel."""
    begin = ptx.index("{", re.search(rf"\.entry\s+{re.escape(entry)}\b[^{{]*", ptx).end() - 1)
    clean = NOT_CODE.sub(lambda m: " " * len(m.group()), ptx)
    depth, end = 1, begin
    while depth:
        end += 1
        depth += (clean[end] == "{") - (clean[end] == "}")
    for match in STATEMENT.finditer(clean, begin + 1, end):
        text = match.group()
        labels = LABELS.match(text)
        skip = labels.end() if labels else 0
        parts = PARTS.match(text[skip:])
        if parts:
            lead = len(text[skip:]) - len(text[skip:].lstrip())
            start = match.start() + skip + lead
            guard = parts["guard"] or ""
            yield Statement(start, match.end(), ptx[start : match.end()], guard, parts["name"], parts["operands"].strip())


# Mutators: statement -> what may stand in its place. `guards`: predicates that guard accesses to global memory.


def number(text: str) -> int | None:
    return int(text, 0) if re.fullmatch(r"-?(?:0[xX][0-9a-fA-F]+|\d+)", text) else None


def changed_number(s: Statement, which: int, change: Callable[[int], int]) -> list[str]:
    """The statement with one argument changed, if it is a literal and stays positive."""
    arguments = s.arguments
    value = number(arguments[which])
    if value is None or change(value) <= 0:
        return []
    arguments[which] = str(change(value))
    return [s.with_arguments(arguments)]


def barriers(s: Statement, guards: set[str]) -> list[str]:
    return [""] if re.match(r"(bar|barrier)\.(cta\.)?(sync|arrive|warp\.sync|cluster\.arrive|cluster\.wait)", s.name) else []


def waits(s: Statement, guards: set[str]) -> list[str]:
    if re.match(r"(cp\.async(\.bulk)?|wgmma)\.wait_(group|all)|tcgen05\.wait", s.name):
        return [""]
    if re.match(r"mbarrier\.(try|test)_wait", s.name):  # the wait is told that the phase is over
        return [f"setp.eq.u32 {s.arguments[0]}, 0, 0;"]
    return []


def weaker_waits(s: Statement, guards: set[str]) -> list[str]:
    if not re.match(r"(cp\.async(\.bulk)?|wgmma)\.wait_group", s.name):
        return []
    value = number(s.arguments[0])
    return [] if value is None else [s.with_arguments([str(value + 1)])]


def fences(s: Statement, guards: set[str]) -> list[str]:
    return (
        [""] if re.match(r"fence\.(proxy|mbarrier_init)|wgmma\.fence|tcgen05\.fence|membar|fence\.(acq_rel|sc)", s.name) else []
    )


def commits(s: Statement, guards: set[str]) -> list[str]:
    return [""] if re.match(r"(cp\.async(\.bulk)?|wgmma)\.commit_group|tcgen05\.commit", s.name) else []


def expected_bytes(s: Statement, guards: set[str]) -> list[str]:
    if "expect_tx" not in s.name:
        return []
    which = len(s.arguments) - 1
    amount = s.arguments[which]
    if number(amount) is not None:
        return changed_number(s, which, lambda n: n // 2) + changed_number(s, which, lambda n: 2 * n)
    return [f"shr.u32 {amount}, {amount}, 1; {s.text} shl.b32 {amount}, {amount}, 1;"]


def arrivals(s: Statement, guards: set[str]) -> list[str]:
    if s.name.startswith("mbarrier.init"):
        return changed_number(s, 1, lambda n: n + 1) + changed_number(s, 1, lambda n: n - 1)
    return [""] if s.name.startswith("mbarrier.arrive") and "expect_tx" not in s.name else []


def parities(s: Statement, guards: set[str]) -> list[str]:
    if not re.match(r"mbarrier\.(try|test)_wait.*parity", s.name):
        return []
    arguments = s.arguments
    value = number(arguments[2])
    if value is not None:
        return [s.with_arguments([*arguments[:2], str(value ^ 1), *arguments[3:]])]
    flip = f"xor.b32 {arguments[2]}, {arguments[2]}, 1;"
    return [f"{flip} {s.text} {flip}"]


def bounds(s: Statement, guards: set[str]) -> list[str]:
    """The guard of a global access removed, or the comparison that it comes from always in favour of the access."""
    if s.guard and touches_global(s.name):
        return [s.with_arguments(s.arguments, guard="")]
    if s.arguments[0] in guards and (compare := re.match(r"setp\.(lt|le|gt|ge)\.([su]32|s64)", s.name)):
        return [f"setp.{'eq' if compare[1] in ('lt', 'le') else 'ne'}.u32 {s.arguments[0]}, 0, 0;"]
    return []


def swizzles(s: Statement, guards: set[str]) -> list[str]:
    """An exclusive or of addresses or phases left out; the swizzle mode of a matrix descriptor cleared."""
    if s.name == "xor.b32":
        return [f"{s.guard}mov.b32 {s.arguments[0]}, {s.arguments[1]};"]
    if s.name in ("or.b64", "add.s64") and (value := number(s.arguments[-1])) is not None and value >> 61 & 7 not in (0, 7):
        return [s.with_arguments([*s.arguments[:-1], str(value & ((1 << 61) - 1))])]
    return []


def touches_global(name: str) -> bool:
    return re.match(r"(ld|st|red|atom)\..*global|(ld|st)\.global|cp\.async\.c[ag]", name) is not None


Mutator = Callable[[Statement, set[str]], list[str]]
MUTATORS: dict[str, Mutator] = {
    "barrier": barriers,
    "wait": waits,
    "weaker wait": weaker_waits,
    "fence": fences,
    "commit": commits,
    "expect_tx": expected_bytes,
    "arrivals": arrivals,
    "parity": parities,
    "bounds": bounds,
    "swizzle": swizzles,
}


def global_guards(found: Sequence[Statement], labels: Mapping[str, int]) -> set[str]:
    """Predicates that decide on global accesses: their guards, those of short branches around them, what these are made of."""
    guards = {s.guard.strip("@! \t\n") for s in found if s.guard and touches_global(s.name)}
    for i, s in enumerate(found):
        if s.guard and s.name.startswith("bra"):
            skipped = [t for t in found[i + 1 : i + 1 + LONGEST_DETOUR] if t.start < labels.get(s.operands, 0)]
            if len(skipped) < LONGEST_DETOUR and any(touches_global(t.name) for t in skipped):
                guards.add(s.guard.strip("@! \t\n"))
    for s in reversed(found):
        if s.name in ("and.pred", "or.pred", "not.pred") and s.arguments[0] in guards:
            guards.update(s.arguments[1:])
    return guards


def mutants(ptx: str, entry: str, per_mutator: int | None = None) -> list[Mutant]:
    """All single mutations of a kernel, or `per_mutator` of each kind, evenly spread."""
    found = list(statements(ptx, entry))
    guards = global_guards(found, {m[1]: m.start() for m in re.finditer(r"^\s*([$\w]+):", ptx, re.MULTILINE)})
    made: list[Mutant] = []
    for name, mutate in MUTATORS.items():
        of_kind: list[Mutant] = []
        for s in found:
            for after in mutate(s, guards):
                line = ptx.count("\n", 0, s.start) + 1
                text = ptx[: s.start] + after + ptx[s.end :]
                of_kind.append(Mutant(name, len(of_kind), line, " ".join(s.text.split()), after, text))
        if per_mutator is not None and len(of_kind) > per_mutator:
            of_kind = [of_kind[i * len(of_kind) // per_mutator] for i in range(per_mutator)]
        made += of_kind
    return made


@dataclass
class Score:
    """What became of a subject's mutants: by mutator, how many were caught and how many there were; and who survived."""

    subject: str
    caught: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)  # of the first report, or "value"
    survivors: list[Mutant] = field(default_factory=list)

    def add(self, mutant: Mutant, verdict: str | None) -> None:
        self.made[mutant.mutator] = self.made.get(mutant.mutator, 0) + 1
        if verdict is None:
            self.survivors.append(mutant)
        else:
            self.caught[mutant.mutator] = self.caught.get(mutant.mutator, 0) + 1
            self.kinds[verdict] = self.kinds.get(verdict, 0) + 1


def judge(subject: Subject, mutant: Mutant, steps: Mapping[Policy, int], policies: Sequence[Policy]) -> str | None:
    """The kind of the first report, "value" for a wrong result, None for a survivor. `steps`: how many are allowed."""
    try:
        module = Module(parse(mutant.ptx))  # launching binds every instruction: no need for `load` to do so first
        for policy in policies:
            if not subject.launch(module, policy, steps[policy])[0]:
                return "value"
    except PTXError:
        return "refused"
    except KernelFault as fault:
        return fault.reports[0].kind
    return None


def run(subject: Subject, known: Container[str] = ()) -> Score:
    """Break a subject in every way. Mutants that are `known` to survive every policy meet one of them only, to save time."""
    module = load(subject.ptx)
    steps = {}
    for policy in EVERY_POLICY:
        right, result = subject.launch(module, policy, LARGEST_STEPS)
        if not right:
            raise AssertionError(f"{subject.name} itself gives wrong values under {policy}")
        steps[policy] = STEPS_ALLOWED * result.steps
    score = Score(subject.name)
    for mutant in mutants(subject.ptx, subject.entry, subject.per_mutator):
        one = (EVERY_POLICY[mutant.ordinal % len(EVERY_POLICY)],)
        score.add(mutant, judge(subject, mutant, steps, one if mutant.key in known else EVERY_POLICY))
    return score


def table(scores: Sequence[Score]) -> str:
    """A row for each subject, a column for each mutator, and the total."""
    lines = [f"{'':28}" + "".join(f"{name:>12}" for name in MUTATORS) + f"{'all':>12}{'equivalent':>12}{'score':>8}"]
    for score in scores:
        caught, made = sum(score.caught.values()), sum(score.made.values())
        cells = [f"{score.caught.get(n, 0)}/{score.made[n]}" if n in score.made else "" for n in MUTATORS]
        equivalent = len(equivalents(score))
        share = f"{caught / max(made - equivalent, 1):.1%}"
        lines.append(
            f"{score.subject:28}" + "".join(f"{c:>12}" for c in cells) + f"{f'{caught}/{made}':>12}{equivalent:>12}{share:>8}"
        )
    caught, made = (sum(sum(getattr(s, what).values()) for s in scores) for what in ("caught", "made"))
    equivalent = sum(len(equivalents(s)) for s in scores)
    lines.append(f"{caught} of {made} mutants caught, {equivalent} of the others equivalent: {total_score(scores):.1%}")
    return "\n".join(lines)


def equivalents(score: Score) -> list[Mutant]:
    return [m for m in score.survivors if m.key in EQUIVALENT.get(score.subject, {})]


def total_score(scores: Sequence[Score]) -> float:
    caught = sum(sum(s.caught.values()) for s in scores)
    made = sum(sum(s.made.values()) for s in scores) - sum(len(equivalents(s)) for s in scores)
    return caught / max(made, 1)


def main(arguments: Sequence[str]) -> None:
    from .mutation_subjects import subjects

    scores = []
    for subject in subjects(thorough=True):
        if not arguments or subject.name in arguments:
            scores.append(run(subject))
            known = EQUIVALENT.get(subject.name, {}) | MISSED.get(subject.name, {})
            for mutant in scores[-1].survivors:
                print(f"{subject.name}: survived {mutant}\n    {known.get(mutant.key, 'NOT EXPLAINED')}")
    print(table(scores))


if __name__ == "__main__":
    main(sys.argv[1:])
