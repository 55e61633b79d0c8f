"""tcgen05.ld, tcgen05.st and tcgen05.cp: tensor memory to registers, back, and from shared memory.

Fragments of ld and st (PTX ISA, "Data Movement Shape"; CUTLASS and Triton say the same): with g = lane / 4, t = lane % 4,
register r of a lane is, relative to the address,

    .32x32b     lane `lane`, column r
    .16x64b     lane g + 8 (t & 1), column 2r + (t >> 1)
    .16x128b    lane g + 8 (r & 1), column 4 (r >> 1) + t
    .16x256b    lane g + 8 (r >> 1 & 1), column 8 (r >> 2) + 2t + (r & 1): the fragment of mma.sync's accumulator
    .16x32bx2   lane `lane` % 16, column r + offset (lane / 16)

With .pack::16b and .unpack::16b a register holds the low halves of two adjacent columns, so all columns count twice.
Warp w of a CTA reaches lanes 32 (w % 4) to 32 (w % 4) + 31.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .. import reports
from ..asynchrony import Operation
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..matrix_descriptor import OperandTile, Tile
from ..registers import TYPES, WARP, Active, Destination
from ..registers_in_flight import registers_in
from ..syntax import Instruction
from ..tensor_memory import LANES, Region, tensor_memory
from .ldmatrix import whole_warps

LANE = np.arange(WARP)
GROUP, THREAD = LANE // 4, LANE % 4
REGISTERS = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4, "16x32bx2": 1}  # of a lane, for .x1
COLUMNS = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8, "16x32bx2": 1}
MOST = {"32x32b": 128, "16x64b": 128, "16x128b": 64, "16x256b": 32, "16x32bx2": 128}


@lru_cache(maxsize=256)
def fragment(shape: str, repeat: int, offset: int, halves: bool) -> tuple[np.ndarray, np.ndarray]:
    """(lane, column) of each register, both (32, registers), or (32, registers, 2) with halves."""
    r = np.arange(REGISTERS[shape] * repeat)[None, :]
    g, t, lane = GROUP[:, None], THREAD[:, None], LANE[:, None]
    row, column = {
        "32x32b": (lane + 0 * r, r + 0 * lane),
        "16x64b": (g + 8 * (t & 1) + 0 * r, 2 * r + (t >> 1)),
        "16x128b": (g + 8 * (r & 1), 4 * (r >> 1) + t),
        "16x256b": (g + 8 * (r >> 1 & 1), 8 * (r >> 2) + 2 * t + (r & 1)),
        "16x32bx2": (lane % 16 + 0 * r, r + 0 * lane),
    }[shape]
    if halves:
        row, column = np.stack([row, row], axis=2), np.stack([2 * column, 2 * column + 1], axis=2)
    if shape == "16x32bx2":
        column = column + offset * (LANE // 16).reshape(-1, *[1] * (column.ndim - 1))
    return row, column


@dataclass
class Transfer:
    """A bound tcgen05.ld or tcgen05.st."""

    instruction: Instruction
    machine: Machine
    what: str
    shape: str
    repeat: int
    halves: bool
    offset: int
    move: Callable[[Active, tuple[np.ndarray, np.ndarray, np.ndarray]], Callable[[], None]]

    def issue(self, active: Active, addresses: np.ndarray) -> None:
        """`addresses`: one for each warp."""
        machine, memory = self.machine, tensor_memory(self.machine)
        row, column = fragment(self.shape, self.repeat, self.offset, self.halves)
        for warp, address in zip(active.warps, addresses, strict=True):
            agent, clock = memory.agent(self.what, int(warp)), machine.sanitizer.clock[warp]
            for region in self._regions(int(warp), int(address)):
                act = memory.reads if self.what == "ld" else memory.writes
                act(self.instruction, region, agent, clock, int(warp) * WARP)
        machine.counters.add(f"tcgen05_{self.what}", len(active.warps), self.instruction)
        across = (-1, *[1] * row.ndim)
        cta = machine.cta_of[active.warps * WARP].reshape(across)
        place = cta, (addresses >> 16).reshape(across) + row, (addresses & 0xFFFF).reshape(across) + column
        transfers(machine, self.what).start(self.instruction, active.warps, self.move(active, place))

    def _regions(self, warp: int, address: int) -> list[Region]:
        """What a warp touches, checked."""
        machine = self.machine
        base, first = address >> 16, address & 0xFFFF
        rows = 32 if self.shape == "32x32b" else 16
        own = 32 * (warp % machine.warps_per_cta % 4)
        if base % rows or not own <= base < own + 32:
            message = (
                f"warp {warp % machine.warps_per_cta} accesses tensor memory from lane {base} on with .{self.shape}; it reaches "
            )
            message += f"lanes {own} to {own + 31} (32 x (its number % 4) on), at a multiple of {rows}"
            machine.stop(reports.OUT_OF_BOUNDS, message, self.instruction, warp * WARP)
        width = COLUMNS[self.shape] * self.repeat * (2 if self.halves else 1)
        starts = [first, first + self.offset] if self.shape == "16x32bx2" else [first]
        lanes, name = np.arange(base, base + rows), f"tcgen05.{self.what}"
        memory = tensor_memory(machine)
        return [memory.region(self.instruction, warp * WARP, lanes, start, width, name) for start in starts]


class Transfers:
    """Loads, or stores, that warps have started and not waited for."""

    def __init__(self, machine: Machine, what: str) -> None:
        self.machine, self.what = machine, what
        self.engine = machine.engines.get(f"tcgen05.{what}")
        self.pending: list[tuple[Operation, set[int]]] = []  # with the warps that have not waited
        self.results: dict[int, np.ndarray] = {}  # instruction -> the registers that a load writes, by number

    def start(self, instr: Instruction, warps: np.ndarray, perform: Callable[[], None]) -> None:
        flight = self.machine.registers_in_flight
        if self.what == "ld":
            if instr.index not in self.results:
                self.results[instr.index] = flight.numbers(registers_in(instr, (0,)))
            for warp in warps:
                flight.begin_load(instr, self.results[instr.index], int(warp))
        operation = Operation(instr, perform, order=self.what, retire=lambda: None)
        self.pending.append((operation, {int(w) for w in warps}))
        self.engine.submit(operation)

    def wait(self, warp: int) -> None:
        """The warp's are complete: whatever else one instruction started with them happens too."""
        for operation, warps in self.pending:
            if warp not in warps:
                continue
            self.engine.force(operation)
            if self.what == "ld":
                none = np.zeros(0, np.int64)
                self.machine.registers_in_flight.end(self.results[operation.instruction.index], none, warp)
            warps.discard(warp)
            if not warps:
                self.engine.retire([operation])
        self.pending = [pair for pair in self.pending if pair[1]]
        tensor_memory(self.machine).learn(self.what, warp)


def transfers(machine: Machine, what: str) -> Transfers:
    return machine.family_state(f"tcgen05.{what}", lambda: Transfers(machine, what))


def shape_of(b: Binding, packing: str) -> tuple[str, int, bool]:
    """(shape, repetitions, whether registers hold two halves)."""
    b.ignore("sync", "aligned", "b32")
    shape = b.required(*REGISTERS)
    repeat = int(b.required(*(f"x{1 << n}" for n in range(8)))[1:])
    if repeat > MOST[shape]:
        b.fail(f".{shape}.x{repeat} does not exist")
    return shape, repeat, b.flag(packing)


def addresses(b: Binding, which: int) -> Callable[[Active], np.ndarray]:
    """The tensor memory address of each warp."""
    operand = b.address(which)

    def read(active: Active) -> np.ndarray:
        whole_warps(b, active)
        values = operand(active).reshape(-1, WARP)
        if (values != values[:, :1]).any():
            message = "the threads of a warp give different tensor memory addresses"
            b.machine.stop(reports.DIVERGENCE, message, b.instruction, active.lanes[0])
        return values[:, 0]

    return read


def split_offset(b: Binding, shape: str, which: int) -> int:
    return b.constant(which) if shape == "16x32bx2" else 0


@instruction("tcgen05.ld")
def load(b: Binding) -> Step:
    """tcgen05.ld.sync.aligned.SHAPE.xN{.pack::16b}.b32 {r...}, [address]{, offset of the second half}"""
    shape, repeat, halves = shape_of(b, "pack::16b")
    destinations, address = b.destinations(0, TYPES["b32"]), addresses(b, 1)
    if len(destinations) != REGISTERS[shape] * repeat:
        b.fail(f".{shape}.x{repeat} has {REGISTERS[shape] * repeat} registers")

    def move(active: Active, place: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Callable[[], None]:
        def perform() -> None:
            words = tensor_memory(b.machine).data[place]
            if halves:
                words = (words[..., 0] & 0xFFFF) | words[..., 1] << 16
            put(destinations, words, active)

        return perform

    transfer = Transfer(b.instruction, b.machine, "ld", shape, repeat, halves, split_offset(b, shape, 2), move)
    return lambda active: transfer.issue(active, address(active))


def put(destinations: list[Destination], words: np.ndarray, active: Active) -> None:
    """(warps, 32, registers)"""
    columns = np.ascontiguousarray(words.reshape(-1, len(destinations)).T)
    for destination, values in zip(destinations, columns, strict=True):
        destination.put(values, active)


@instruction("tcgen05.st")
def store(b: Binding) -> Step:
    """tcgen05.st.sync.aligned.SHAPE.xN{.unpack::16b}.b32 [address]{, offset of the second half}, {r...}"""
    shape, repeat, halves = shape_of(b, "unpack::16b")
    address, sources = addresses(b, 0), b.sources(-1, TYPES["b32"])
    if len(sources) != REGISTERS[shape] * repeat:
        b.fail(f".{shape}.x{repeat} has {REGISTERS[shape] * repeat} registers")

    def move(active: Active, place: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Callable[[], None]:
        words = np.stack([b.compact(s, active) for s in sources], axis=1).reshape(-1, WARP, len(sources))
        if halves:
            words = np.stack([words & 0xFFFF, words >> 16], axis=-1)

        def perform() -> None:
            tensor_memory(b.machine).data[place] = words

        return perform

    transfer = Transfer(b.instruction, b.machine, "st", shape, repeat, halves, split_offset(b, shape, 1), move)
    return lambda active: transfer.issue(active, address(active))


# Lanes that a copy of so many rows of so many bytes writes, row by row and copy by copy.
COPIES: dict[tuple[str, str | None], tuple[int, list[np.ndarray]]] = {
    ("128x256b", None): (32, [np.arange(128)]),
    ("128x128b", None): (16, [np.arange(128)]),
    ("64x128b", "warpx2::02_13"): (16, [np.arange(64), np.arange(64, 128)]),
    ("64x128b", "warpx2::01_23"): (16, [np.r_[0:32, 64:96], np.r_[32:64, 96:128]]),
    ("32x128b", "warpx4"): (16, [np.arange(32 * w, 32 * w + 32) for w in range(4)]),
}


@instruction("tcgen05.cp")
def copy(b: Binding) -> Step:
    """tcgen05.cp.cta_group::1.SHAPE{.multicast} [address], descriptor: rows of shared memory to lanes, in the pipeline."""
    b.required("cta_group::1")
    shape = b.required("128x256b", "128x128b", "64x128b", "32x128b")
    multicast = b.choice("warpx2::02_13", "warpx2::01_23", "warpx4")
    if (shape, multicast) not in COPIES:
        b.fail(f".{shape} does not go with .{multicast}")
    depth, targets = COPIES[shape, multicast]
    address, descriptor = b.address(0), b.source(1, TYPES["b64"])
    tile = Tile(len(targets[0]), depth=depth)
    machine, instr = b.machine, b.instruction

    def run(active: Active) -> None:
        bits = b.compact(descriptor, active)
        for lane, place, each in zip(active.lanes, address(active), bits, strict=True):
            issue(int(lane), int(place), int(each))
        machine.counters.add("tcgen05_cp", active.count, instr)

    def issue(lane: int, place: int, bits: int) -> None:
        memory, warp = tensor_memory(machine), lane // WARP
        if place >> 16:
            message = f"tcgen05.cp to lane {place >> 16}: .{shape} starts at lane 0"
            machine.stop(reports.OUT_OF_BOUNDS, message, instr, lane)
        agent, past = memory.agent("pipeline", warp), memory.past(warp)
        source = OperandTile(machine, instr, lane, bits, "tcgen05", tile, "the source")
        source.begin(past)
        region = memory.region(instr, lane, np.arange(LANES), place, depth // 4, "tcgen05.cp")
        memory.writes(instr, region, agent, past[0], lane)
        step = machine.step

        def perform() -> None:
            words = source.read().view(np.uint32)
            for lanes in targets:
                memory.data[region.cta, lanes, place : place + depth // 4] = words
            source.end(agent, step)

        order = int(machine.cta_of[lane])
        machine.engines.get("tcgen05").submit(Operation(instr, perform, order=order, must_retire=False))

    return run
