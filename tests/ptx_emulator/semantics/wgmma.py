"""wgmma: asynchronous matrix multiply-accumulate of a warpgroup (four warps, the first a multiple of four).

A (64 x K) comes from shared memory or registers, B (K x N) from shared memory, D (64 x N) lies in registers: warp w of the
warpgroup has rows 16w ... 16w + 15, and as in mma.sync, register 4i + 2h + j of lane 4g + t is element
(8h + g, 8i + 2t + j); with f16 results, j selects the half of register 2i + h.

An instruction is issued when the last of the four warps executes it. It happens at some time between that and the wait
that covers it, in order with the others of its warpgroup; its registers are in flight until each warp's own wait
(registers_in_flight.py), its operands in shared memory are being read until the first wait of one of the warps. Whether
that wait speaks for the whole warpgroup is a choice (Policy.wgmma_scope): kernels that release a stage of their ring by one
thread of the warpgroup rely on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from .. import reports
from ..asynchrony import Operation
from ..binding import Binding, Control, Step, instruction
from ..machine import Machine
from ..matrix_descriptor import OperandTile, Tile
from ..registers import TYPES, WARP, Active
from ..registers_in_flight import registers_in
from ..syntax import Instruction, Register, Vector
from ..tensor_core import accumulate
from .ldmatrix import whole_warps
from .mma import ELEMENT_BITS, SMALLEST, Fragments, decode

ENGINE = "wgmma"
GROUP = 4  # warps
DEPTH = {"f16": 16, "bf16": 16, "tf32": 8, "e4m3": 32, "e5m2": 32, "s8": 32, "u8": 32}
FP8, INT8 = ("e4m3", "e5m2"), ("s8", "u8")


@dataclass
class Multiply:
    """A bound wgmma.mma_async."""

    instruction: Instruction
    machine: Machine
    n: int
    d: str
    a: str
    b: str
    accumulators: list[np.ndarray]  # 32-bit views
    fragments: list[np.ndarray]  # of A; empty if A is in shared memory
    signs: tuple[int, int] = (1, 1)
    transposed: tuple[bool, bool] = (False, False)
    saturate: bool = False

    def __post_init__(self) -> None:
        flight = self.machine.registers_in_flight
        self.writes = flight.numbers(registers_in(self.instruction, (0,)))
        self.reads = flight.numbers(registers_in(self.instruction, (1,)) if self.fragments else [])
        self.tile_a = Tile(64, ELEMENT_BITS[self.a] // 8, self.transposed[0])
        self.tile_b = Tile(self.n, ELEMENT_BITS[self.b] // 8, self.transposed[1])

    def compute(self, a: np.ndarray | None, b: np.ndarray, keep: bool, lanes: slice) -> None:
        """D = A B + D for whole warps. `a`: (rows, 32) bytes, None if A is in registers; `b`: (N, 32) bytes; keep: scale-d."""
        warps = (lanes.stop - lanes.start) // WARP
        left = self._fragments(lanes) if a is None else decode(a.view(np.uint32), self.a)
        right = decode(b.view(np.uint32), self.b).T
        before = self._accumulator(lanes, warps, keep)
        if self.d == "s32":
            total = np.matmul(left, right).astype(np.int64) + before
            result = (np.clip(total, -(2**31), 2**31 - 1) if self.saturate else total).astype(np.int32)
        else:
            smallest = (SMALLEST[self.a], SMALLEST[self.b]) if self.a in SMALLEST else None
            left, right = left * self.signs[0], right * self.signs[1]
            result = accumulate(left, right, before, self.machine.options.numerics, smallest, self.dtype)
        self._store(result, lanes, warps)

    def _fragments(self, lanes: slice) -> np.ndarray:
        words = np.stack([f[lanes] for f in self.fragments], axis=1).reshape(-1, WARP, len(self.fragments))
        k = DEPTH[self.a]
        return Fragments(k, ELEMENT_BITS[self.a]).a(words, self.a).reshape(-1, k)

    @property
    def dtype(self) -> type[np.number]:
        return {"f32": np.float32, "f16": np.float16, "s32": np.int32}[self.d]

    def _accumulator(self, lanes: slice, warps: int, keep: bool) -> np.ndarray:
        if not keep:
            return np.zeros((16 * warps, self.n), self.dtype)
        words = np.stack([r[lanes] for r in self.accumulators])
        if self.d == "f16":
            parts = words.view(np.float16).reshape(self.n // 8, 2, warps, 8, 4, 2).transpose(2, 1, 3, 0, 4, 5)
        else:
            parts = words.view(self.dtype).reshape(self.n // 8, 2, 2, warps, 8, 4).transpose(3, 1, 4, 0, 5, 2)
        return np.ascontiguousarray(parts).reshape(16 * warps, self.n)

    def _store(self, result: np.ndarray, lanes: slice, warps: int) -> None:
        parts = result.reshape(warps, 2, 8, self.n // 8, 4, 2)  # w, h, g, i, t, j
        order = (3, 1, 0, 2, 4, 5) if self.d == "f16" else (3, 1, 5, 0, 2, 4)
        words = np.ascontiguousarray(parts.transpose(order)).view(np.uint32).reshape(len(self.accumulators), -1)
        for register, values in zip(self.accumulators, words, strict=True):
            register[lanes] = values


@dataclass(eq=False)
class Issue:
    """One wgmma.mma_async of one warpgroup. `group`: the commit group it belongs to. `parts`: its operations by warp."""

    multiply: Multiply
    warps: range
    operands: tuple[int | None, int, bool]  # descriptors of A and B, scale-d
    group: int
    past: np.ndarray
    arrived: list[int] = field(default_factory=list)
    parts: dict[int, tuple[Operation, int]] = field(default_factory=dict)  # warp -> (operation, its agent)

    def __str__(self) -> str:
        missing = ", ".join(str(w % self.multiply.machine.warps_per_cta) for w in self.warps if w not in self.arrived)
        return f"warps {missing} of its warpgroup to execute wgmma.mma_async at PTX line {self.multiply.instruction.line},"


class Warpgroups:
    """What the warpgroups of the resident CTAs have issued and not waited for."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engines.get(ENGINE)
        self.committed = np.zeros(machine.num_warps, np.int64)
        self.pending: list[list[Issue]] = [[] for _ in range(machine.num_warps)]  # of each warp, oldest first
        self.incomplete: dict[int, list[Issue]] = {}  # first warp of a warpgroup -> issues that lack warps
        self.sleepers: dict[int, list[np.ndarray]] = {}  # first warp -> lanes that wait for other warps
        machine.scheduler.exit_hooks.append(self.ended)

    def warps(self, warp: int, instr: Instruction) -> range:
        """The warps of a warp's warpgroup."""
        per_cta = self.machine.warps_per_cta
        first = warp - warp % per_cta % GROUP
        if warp % per_cta // GROUP * GROUP + GROUP > per_cta:
            message = f"the CTA has {per_cta} warps, so warp {warp % per_cta} belongs to no whole warpgroup"
            self.machine.stop(reports.DIVERGENCE, message, instr, warp * WARP)
        return range(first, first + GROUP)

    def arrive(self, multiply: Multiply, warp: int, operands: tuple[int | None, int, bool]) -> None:
        """A warp executes the instruction."""
        instr, machine = multiply.instruction, self.machine
        warps = self.warps(warp, instr)
        machine.registers_in_flight.begin(instr, multiply.writes, multiply.reads, warp)
        row = machine.sanitizer.row(warp)
        open_issues = self.incomplete.setdefault(warps.start, [])
        issue = next((i for i in open_issues if warp not in i.arrived), None)
        if issue is None:
            issue = Issue(multiply, warps, operands, int(self.committed[warp]), row)
            open_issues.append(issue)
        else:
            self._check_same(issue, multiply, warp, operands)
            width = max(row.shape[1], issue.past.shape[1])  # what all four warps come after
            issue.past = np.minimum(*(np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in (issue.past, row)))
        issue.arrived.append(warp)
        self.pending[warp].append(issue)
        if len(issue.arrived) == GROUP:
            open_issues.remove(issue)
            self._start(issue)
            for lanes in self.sleepers.pop(warps.start, []):
                machine.scheduler.wake(lanes)

    def _check_same(self, issue: Issue, multiply: Multiply, warp: int, operands: tuple[int | None, int, bool]) -> None:
        """All four warps must execute the same instruction with the same operands, in the same group."""
        instr, per_cta = multiply.instruction, self.machine.warps_per_cta
        other = issue.multiply.instruction
        pair = f"warps {issue.arrived[0] % per_cta} and {warp % per_cta} of a warpgroup"
        if other is not instr:
            self.machine.stop(
                reports.DIVERGENCE, f"{pair} execute different wgmma: PTX line {other.line} and this", instr, warp * WARP
            )
        if issue.operands != operands:
            self.machine.stop(reports.DIVERGENCE, f"{pair} give different descriptors or scale-d", instr, warp * WARP)
        if issue.group != self.committed[warp]:
            self.machine.stop(
                reports.DIVERGENCE, f"{pair} have executed wgmma.commit_group a different number of times", instr, warp * WARP
            )

    def _start(self, issue: Issue) -> None:
        machine, multiply, warps = self.machine, issue.multiply, issue.warps
        machine.counters.add("wgmma", 1, multiply.instruction)
        whole = machine.policy.wgmma_scope == "warpgroup"
        for part in [warps] if whole else [range(w, w + 1) for w in warps]:
            agent = machine.sanitizer.agent(self._agent_name(part))
            operation = self._operation(issue, part, agent)
            for warp in part:
                issue.parts[warp] = operation, agent
            self.engine.submit(operation)

    def _agent_name(self, part: range) -> str:
        rank, first = divmod(part.start % self.machine.sanitizer.home_agents, self.machine.warps_per_cta)
        of_cta = f" of the cluster's CTA {rank}" if self.machine.cluster_size > 1 else ""
        return f"wgmma of warp{f's {first} to {first + GROUP - 1}' if len(part) > 1 else f' {first}'}{of_cta}"

    def _operation(self, issue: Issue, part: range, agent: int) -> Operation:
        """The work of some warps of an issue."""
        machine, multiply = self.machine, issue.multiply
        bits_a, bits_b, keep = issue.operands
        lane, instr = part.start * WARP, multiply.instruction
        a = None if bits_a is None else OperandTile(machine, instr, lane, bits_a, "wgmma", multiply.tile_a, "A")
        b = OperandTile(machine, instr, lane, bits_b, "wgmma", multiply.tile_b, "B")
        tiles = [tile for tile in (a, b) if tile is not None]
        for tile in tiles:
            tile.begin(issue.past)
        first = 16 * (part.start - issue.warps.start)
        rows = slice(first, first + 16 * len(part))

        def perform() -> None:
            left = None if a is None else a.read()[rows]
            multiply.compute(left, b.read(), keep, slice(part.start * WARP, part.stop * WARP))

        def retire() -> None:
            for tile in tiles:
                tile.end(agent)

        return Operation(instr, perform, order=part.start, retire=retire)

    def wait(self, warp: int, newest_left: int, pc: int) -> None:
        """Until at most `newest_left` groups of the warp are pending. Sleeps if the other warps have not issued them yet."""
        machine, scheduler = self.machine, self.machine.scheduler
        limit = self.committed[warp] - newest_left
        due = [issue for issue in self.pending[warp] if issue.group < limit]
        late = next((issue for issue in due if not issue.parts), None)
        if late is not None:
            lanes = np.arange(warp * WARP, warp * WARP + WARP)
            scheduler.pc[lanes] = pc
            scheduler.block(lanes, late)
            self.sleepers.setdefault(late.warps.start, []).append(lanes)
            return
        for issue in due:
            operation, agent = issue.parts[warp]
            if operation in self.engine.operations:
                self.engine.retire([operation])
            multiply = issue.multiply
            machine.registers_in_flight.end(multiply.writes, multiply.reads, warp)
            known = np.zeros((2, agent + 1), np.int32)
            known[0, agent] = machine.step
            machine.sanitizer.acquire(warp, known)
        self.pending[warp] = self.pending[warp][len(due) :]

    def ended(self, lanes: np.ndarray) -> None:
        """Threads exit: an instruction that others of the warpgroup have executed will never be whole."""
        gone = set(np.unique(lanes // WARP).tolist())
        for issue in [i for issues in self.incomplete.values() for i in issues]:
            missing = sorted(gone & set(issue.warps) - set(issue.arrived))
            if missing:
                instr, per_cta = issue.multiply.instruction, self.machine.warps_per_cta
                message = f"warp {missing[0] % per_cta} ended without this wgmma, which other warps of its warpgroup execute"
                self.machine.report(reports.DIVERGENCE, message, instr, issue.arrived[0] * WARP)


def warpgroups(machine: Machine) -> Warpgroups:
    return machine.family_state(ENGINE, lambda: Warpgroups(machine))


# Instructions.


@instruction("wgmma.fence")
def fence(b: Binding) -> Step:
    b.ignore("sync", "aligned")

    def run(active: Active) -> None:
        whole_warps(b, active)
        b.machine.registers_in_flight.fence(active.warps)

    return run


@instruction("wgmma.commit_group")
def commit(b: Binding) -> Step:
    b.ignore("sync", "aligned")

    def run(active: Active) -> None:
        whole_warps(b, active)
        warpgroups(b.machine).committed[active.warps] += 1

    return run


@instruction("wgmma.wait_group")
def wait(b: Binding) -> Step:
    b.ignore("sync", "aligned")
    left = b.constant(0)

    def run(active: Active, pc: int) -> None:
        whole_warps(b, active)
        for warp in active.warps:
            warpgroups(b.machine).wait(int(warp), left, pc)

    return Control(run)


def types(b: Binding) -> tuple[int, str, str, str]:
    """(N, types of D, A, B) from .m64nNkK.d.a.b."""
    shape = next((re.fullmatch(r"m64n(\d+)k(\d+)", w) for w in b.left if w.startswith("m64n")), None)
    if shape is None:
        b.fail("a shape .m64nNkK is expected")
    b.flag(shape.group(0))
    if len(b.left) != 3:
        b.fail("three types are expected")
    d, kind_a, kind_b = b.left
    b.left.clear()
    n, k = int(shape.group(1)), int(shape.group(2))
    pairs = (
        (kind_a == kind_b and kind_a in ("f16", "bf16", "tf32")) or {kind_a, kind_b} <= set(FP8) or {kind_a, kind_b} <= set(INT8)
    )
    wanted = ("s32",) if kind_a in INT8 else ("f32",) if kind_a in ("bf16", "tf32") else ("f16", "f32")
    if not pairs or d not in wanted:
        b.fail(f"types .{d}.{kind_a}.{kind_b} do not go together")
    if k != DEPTH[kind_a]:
        b.fail(f".{kind_a} has K = {DEPTH[kind_a]}")
    if n % 8 or not 8 <= n <= 256 or (kind_a in INT8 and n > 24 and n % 16):
        b.fail(f"N = {n} does not exist for .{kind_a}")
    return n, d, kind_a, kind_b


@instruction("wgmma.mma_async")
def multiply(b: Binding) -> Step:
    """wgmma.mma_async.sync.aligned.m64nNkK.d.a.b d, a | a-desc, b-desc, scale-d {, scale-a, scale-b {, trans-a}, trans-b}

    The scales (1 or -1) exist for floating point, trans-a for f16 and bf16 with A in shared memory, trans-b for both.
    """
    b.ignore("sync", "aligned")
    saturate = b.flag("satfinite")
    n, d, kind_a, kind_b = types(b)
    in_registers = isinstance(b.operand(1), Vector)
    scales = 0 if kind_a in INT8 else 2
    transposes = 0 if kind_a not in ("f16", "bf16") else 1 if in_registers else 2
    if len(b.operands) != 4 + scales + transposes:
        b.fail(f"{4 + scales + transposes} operands are expected")
    words = TYPES["b32"]
    items = b.items(0), b.items(1) if in_registers else ()
    wanted = n // 4 if d == "f16" else n // 2, 4 if in_registers else 0
    if tuple(len(i) for i in items) != wanted or not all(isinstance(o, Register) for i in items for o in i):
        b.fail(f"D needs {wanted[0]} registers" + (", A four" if in_registers else ""))
    views = [[b.source(item, words) for item in each] for each in items]
    immediates = [b.constant(4 + i) for i in range(scales + transposes)]
    if any(v not in (1, -1) for v in immediates[:scales]) or any(v not in (0, 1) for v in immediates[scales:]):
        b.fail("a scale is 1 or -1, a transposition 0 or 1")
    signs = (immediates[0], immediates[1]) if scales else (1, 1)
    flips = [bool(v) for v in immediates[scales:]]
    flips = [False] * (2 - len(flips)) + flips
    machine = b.machine
    bound = Multiply(b.instruction, machine, n, d, kind_a, kind_b, *views, signs, (flips[0], flips[1]), saturate)
    first = np.uint64(0) if in_registers else b.source(1, TYPES["b64"])
    second, scale_d = b.source(2, TYPES["b64"]), b.predicate(3)

    def run(active: Active) -> None:
        whole_warps(b, active)
        given = [b.compact(s, active).reshape(-1, WARP) for s in (first, second, scale_d())]
        state = warpgroups(machine)
        for row, warp in enumerate(active.warps):
            bits_a, bits_b, keep = (values[row] for values in given)
            if not all((v == v[0]).all() for v in (bits_a, bits_b, keep)):
                message = "the threads of a warp give different descriptors or scale-d"
                machine.stop(reports.DIVERGENCE, message, b.instruction, int(warp) * WARP)
            state.arrive(bound, int(warp), (None if in_registers else int(bits_a[0]), int(bits_b[0]), bool(keep[0])))

    return run
