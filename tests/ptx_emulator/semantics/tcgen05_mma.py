"""tcgen05.mma with cta_group::1: D = A B + D with D in tensor memory, dense, with or without block scales.

A (M x K) is in shared memory or tensor memory, B (K x N) in shared memory, K as many elements as fill 32 bytes. Row m of D, and
of A in tensor memory, is lane m for M = 128; for M = 64 it is lane 32 (m / 16) + m % 16, 16 lanes further if the address says so.
Column n of D is column n, whatever its type; in tensor memory A's 32 bytes of a row fill 8 columns.

Formats of four and six bits lie in shared memory as TMA writes them, 16 elements packed at the start of 16 bytes; the kinds mxf4
and mxf4nvf4 have nothing but packed E2M1, 64 elements in 32 bytes.

Scales lie in tensor memory: row r's are bytes of the word at lane r % 32, column r / 32 from the address on, and the descriptor
says which byte is the first. Each 32 lanes of D are computed with the scales in the same 32 lanes, so all four must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import instruction_descriptor as idesc
from .. import numerics as nx
from .. import reports
from ..asynchrony import Operation
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..matrix_descriptor import PIECE, OperandTile, Tile
from ..registers import TYPES, WARP, Active
from ..syntax import Address, Instruction, PTXError, Vector
from ..tensor_core import exact
from ..tensor_memory import LANES, Region, tensor_memory
from .mma import decode

ENGINE = "tcgen05"
KINDS = ("f16", "tf32", "f8f6f4", "i8", "mxf8f6f4", "mxf4", "mxf4nvf4")
VECTORS = {"block32": 32, "block16": 16, "scale_vec::1X": 32, "scale_vec::2X": 32, "scale_vec::4X": 16}  # elements of one scale
DEFAULT_VECTOR = {"mxf8f6f4": 32, "mxf4": 32, "mxf4nvf4": 16}
DEPTH = {"mxf4": 64, "mxf4nvf4": 64}
RESULTS: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "s32": np.int32}
BITS = {"e2m3": 6, "e3m2": 6, "e2m1": 4}  # that share the bytes of shared memory


def elements(rows: np.ndarray, kind: str) -> np.ndarray:
    """(rows, K) float64 from (rows, 32) bytes."""
    if kind not in BITS:
        return decode(rows.view(np.uint32), kind)
    bits = BITS[kind]
    packed = rows.reshape(len(rows), 2, 16)[:, :, : 2 * bits]
    ones = np.unpackbits(packed, axis=-1, bitorder="little").reshape(len(rows), 32, bits)
    return nx.TABLES[kind][ones @ (1 << np.arange(bits))]


@dataclass
class Multiply:
    """A bound tcgen05.mma. `blocks`: scales of a row, 0 without block scales."""

    instruction: Instruction
    machine: Machine
    kind: str
    blocks: int
    a_in_tensor_memory: bool
    halvings: int  # scale-input-d: D is divided by two as often

    def issue(self, lane: int, values: dict[str, Any]) -> None:
        """One thread executes it. `values`: the operands."""
        machine, instr = self.machine, self.instruction
        try:
            shape = idesc.decode(int(values["idesc"]), self.kind, self.blocks)
        except PTXError as problem:
            message = f"the instruction descriptor {int(values['idesc']):#010x}: {problem}"
            machine.stop(reports.DESCRIPTOR, message, instr, lane)
        Issue(self, lane, shape, values).start()


class Issue:
    """One execution by one thread."""

    def __init__(self, multiply: Multiply, lane: int, shape: idesc.InstructionDescriptor, values: dict[str, Any]) -> None:
        self.multiply, self.lane, self.shape = multiply, lane, shape
        self.machine, self.instruction = multiply.machine, multiply.instruction
        self.keep = bool(values["keep"])
        self.memory = tensor_memory(self.machine)
        self.agent = self.memory.agent("pipeline", lane // WARP)
        self.past = self.memory.past(lane // WARP)
        self.step = self.machine.step
        self.d = self._region(int(values["d"]), shape.n, "D")
        self.kept_lanes = self._kept_lanes(values.get("disabled"))
        self.b = self._tile(int(values["b"]), shape.n, shape.b, shape.mn_major[1], "B")
        self.a: OperandTile | Region
        if multiply.a_in_tensor_memory:
            if shape.mn_major[0] or shape.a in BITS:
                self._stop("A in tensor memory is K-major, and formats below 8 bits are not supported there")
            self.a = self._region(int(values["a"]), 8, "A")
        else:
            self.a = self._tile(int(values["a"]), shape.m, shape.a, shape.mn_major[0], "A")
        self.scales = [
            self._scale_region(int(values[name]), rows, of)
            for name, rows, of in (("scale_a", shape.m, "A"), ("scale_b", shape.n, "B"))
            if multiply.blocks
        ]

    def _stop(self, message: str) -> None:
        self.machine.stop(reports.DESCRIPTOR, message, self.instruction, self.lane)

    def _region(self, address: int, columns: int, name: str) -> Region:
        base, m = address >> 16, self.shape.m
        if base not in ((0,) if m == 128 else (0, 16)):
            self._stop(f"{name} starts at lane {base}: with M = {m} it may start at {'0' if m == 128 else '0 or 16'}")
        rows = np.arange(m)
        lanes = rows if m == 128 else base + 32 * (rows // 16) + rows % 16
        return self.memory.region(self.instruction, self.lane, lanes, address & 0xFFFF, columns, name)

    def _scale_region(self, address: int, rows: int, name: str) -> Region:
        if address >> 16:
            self._stop(f"the scales of {name} start at lane {address >> 16}, they must start at 0")
        columns = -(-rows // 32)
        what = f"the scales of {name}"
        return self.memory.region(self.instruction, self.lane, np.arange(LANES), address & 0xFFFF, columns, what)

    def _tile(self, bits: int, rows: int, form: str, mn_major: bool, name: str) -> OperandTile:
        tile = Tile(rows, idesc.BYTES.get(form, 1), mn_major, used=8 if form == "e2m1" else PIECE)
        return OperandTile(self.machine, self.instruction, self.lane, bits, "tcgen05", tile, name)

    def _kept_lanes(self, disabled: list[int] | None) -> np.ndarray | None:
        """Which rows of D are written; None: all."""
        if disabled is None:
            return None
        mask = np.unpackbits(np.array(disabled, np.uint32).view(np.uint8), bitorder="little")
        return mask[self.d.lanes] == 0

    def start(self) -> None:
        """Check the operands, tell who watches them, and submit what is to be done."""
        machine, instr, memory, clock = self.machine, self.instruction, self.memory, self.past[0]
        machine.counters.add("tcgen05_mma", 1, instr)
        if isinstance(self.a, Region):
            memory.reads(instr, self.a, self.agent, clock, self.lane, "A, ")
        else:
            self.a.begin(self.past)
        self.b.begin(self.past)
        for region, name in zip(self.scales, "AB", strict=False):
            memory.reads(instr, region, self.agent, clock, self.lane, f"the scales of {name}, ")
        if self.keep:
            memory.reads(instr, self.d, self.agent, clock, self.lane, "D, ")
        target = self.d
        if self.kept_lanes is not None and not self.kept_lanes.all():
            target = Region(self.d.cta, self.d.lanes[self.kept_lanes], self.d.first, self.d.columns)
        if len(target.lanes):
            memory.writes(instr, target, self.agent, clock, self.lane, "accumulates in ")
        order = int(machine.cta_of[self.lane])
        machine.engines.get(ENGINE).submit(Operation(instr, self.perform, order=order, must_retire=False))

    def perform(self) -> None:
        shape, data = self.shape, self.memory.data
        rows = np.ascontiguousarray(data[self.a.words]).view(np.uint8) if isinstance(self.a, Region) else self.a.read()
        a, b = elements(rows, shape.a), elements(self.b.read(), shape.b).T
        a, b = (-x if flag else x for x, flag in zip((a, b), shape.negate, strict=True))
        before = self._before(data[self.d.words])
        if shape.d == "s32":
            total = np.matmul(a, b).astype(np.int64) + before
            result = (np.clip(total, -(2**31), 2**31 - 1) if shape.saturate else total).astype(np.int32)
        elif self.scales:
            result = self._scaled(a, b, before)
        else:
            result = exact(a, b, before, RESULTS[shape.d])
        words = result.view(np.uint16).astype(np.uint32) if shape.d == "f16" else result.view(np.uint32)
        keep = slice(None) if self.kept_lanes is None else self.kept_lanes
        data[self.d.cta, self.d.lanes[keep, None], self.d.words[2]] = words[keep]
        self.b.end(self.agent, self.step)
        if isinstance(self.a, OperandTile):
            self.a.end(self.agent, self.step)

    def _before(self, words: np.ndarray) -> np.ndarray:
        """D as it enters the sum."""
        if not self.keep:
            return np.zeros(words.shape, RESULTS[self.shape.d])
        if self.shape.d == "f16":
            values: np.ndarray = (words & 0xFFFF).astype(np.uint16).view(np.float16)
        else:
            values = words.view(RESULTS[self.shape.d])
        return values.astype(np.float64) * 2.0**-self.multiply.halvings if self.multiply.halvings else values

    def _scaled(self, a: np.ndarray, b: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Each 32 rows with the scales of their own lanes."""
        table, vector = nx.TABLES[self.shape.scale], a.shape[1] // self.multiply.blocks
        factors = []
        for region, count, first in zip(self.scales, (self.shape.m, self.shape.n), self.shape.scale_bytes, strict=True):
            codes = np.ascontiguousarray(self.memory.data[region.words]).view(np.uint8).reshape(4, 32, region.columns, 4)
            codes = codes.transpose(0, 2, 1, 3).reshape(4, -1, 4)[:, :count, first : first + self.multiply.blocks]
            factors.append(np.repeat(table[codes], vector, axis=2))  # (4, rows, K)
        quarters = np.arange(4)
        mine = factors[0].reshape(4, 4, 32, -1)[quarters, quarters]
        left = a.reshape(4, 32, -1) * mine
        right = b * factors[1].transpose(0, 2, 1)
        return exact(left, right, before.reshape(4, 32, -1)).reshape(before.shape)


@instruction("tcgen05.mma")
def mma(b: Binding) -> Step:
    """tcgen05.mma.cta_group::1.kind::K [d], a-desc | [a], b-desc, idesc, {disable-output-lane,} enable-input-d{, scale-input-d}

    With block scales: [d], a, b-desc, idesc, [scale-a], [scale-b], enable-input-d. Collector hints change nothing.
    """
    b.required("cta_group::1")
    kind = b.required(*(f"kind::{k}" for k in KINDS)).removeprefix("kind::")
    blocks = block_count(b, kind)
    b.ignore(*(f"collector::a::{use}" for use in ("fill", "use", "lastuse", "discard")))
    words, wide = TYPES["b32"], TYPES["b64"]
    in_tensor_memory = isinstance(b.operand(1), Address)
    a_address = b.address(1) if in_tensor_memory else None
    sources = {"b": b.source(2, wide), "idesc": b.source(3, words)}
    if not in_tensor_memory:
        sources["a"] = b.source(1, wide)
    places = {"d": b.address(0)} | ({"a": a_address} if a_address is not None else {})
    at, disabled = 4, []
    if blocks:
        places |= {"scale_a": b.address(4), "scale_b": b.address(5)}
        at = 6
    elif isinstance(b.operand(4), Vector):
        disabled = b.sources(4, words)
        if len(disabled) != 4:
            b.fail("disable-output-lane has four registers")
        at = 5
    keep = b.predicate(at)
    if len(b.operands) > at + 2 or (len(b.operands) == at + 2 and kind not in ("f16", "tf32")):
        b.fail("too many operands")
    halvings = b.constant(at + 1) if len(b.operands) == at + 2 else 0
    bound = Multiply(b.instruction, b.machine, kind, blocks, in_tensor_memory, halvings)

    def run(active: Active) -> None:
        if active.count != len(active.warps):
            message = "tcgen05.mma executed by several threads of a warp: each of them starts one of its own; elect one"
            b.machine.report(reports.DIVERGENCE, message, b.instruction, active.lanes[0])
        values = {name: b.compact(source, active) for name, source in sources.items()}
        values |= {name: address(active) for name, address in places.items()}
        values["keep"] = b.compact(keep(), active)
        masks = [b.compact(s, active) for s in disabled]
        for i, lane in enumerate(active.lanes):
            operands = {name: each[i] for name, each in values.items()}
            if masks:
                operands["disabled"] = [m[i] for m in masks]
            bound.issue(int(lane), operands)

    return run


def block_count(b: Binding, kind: str) -> int:
    """Scales of a row, 0 without block scales."""
    scaled = b.flag("block_scale")
    if scaled != (kind in DEFAULT_VECTOR):
        b.fail("kinds mxf8f6f4, mxf4 and mxf4nvf4 have block scales, others do not")
    if not scaled:
        return 0
    given = b.choice(*VECTORS)
    vector = DEFAULT_VECTOR[kind] if given is None else VECTORS[given]
    depth = DEPTH.get(kind, 32)
    wanted = {"scale_vec::1X": 1, "scale_vec::2X": 2, "scale_vec::4X": 4}.get(given or "", depth // vector)
    if depth // vector != wanted or (kind != "mxf4nvf4" and vector != 32):
        b.fail(f"kind::{kind} has no .{given}")
    return depth // vector
