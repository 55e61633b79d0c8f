"""cp.async.bulk.tensor, cp.reduce.async.bulk.tensor and their prefetch: boxes of tensors described by a tensor map.

A box lies in shared memory row by row, without gaps, its innermost dimension first. A swizzle permutes 16-byte chunks:
it adds (XOR) address bits 7 to 9 (128B), 7 and 8 (64B) or 7 (32B) to the bits from 4 on, on the absolute address, so a tile
that does not start at a multiple of 1024, 512 or 256 bytes is permuted as its address says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import reports
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..registers import TYPES, Active
from ..spaces import GLOBAL_WINDOW
from ..syntax import Instruction
from ..tensor_map import BYTES, NANS, SWIZZLES, Fields
from ..tensor_map import TYPES as ELEMENT_TYPES
from .bulk_groups import CHUNK, GlobalRows, check_rows, deliver, multicast_places, send, shared_place, signal_place
from .bulk_reduce import OPERATIONS, combine_bytes
from .tensormap import check_acquired

TILE_ALIGNMENT = 128
MAP_ALIGNMENT = 64
ROWS = 4  # of a gather or scatter
HINT = ": the tensor map describes more than the array has"


@dataclass
class Box:
    """Where a box lies. Rows run along the innermost dimension."""

    fields: Fields
    inside: np.ndarray  # which rows lie in the tensor
    starts: np.ndarray  # arena offsets of the first byte in the tensor of each of these
    low: int  # bytes of a row before the tensor begins
    high: int  # and before it ends

    @property
    def rows(self) -> GlobalRows:
        return GlobalRows(self.starts, self.high - self.low)

    @property
    def bytes(self) -> int:
        """What an mbarrier is told, whether the box lies in the tensor or not."""
        return len(self.inside) * self.fields.row_bytes

    def chunks(self, start: int) -> np.ndarray:
        """Arena offsets of the 16-byte chunks of the box stored at `start`, in the order of the box."""
        return swizzled(start + np.arange(0, self.bytes, CHUNK), self.fields.swizzle)


def box_at(fields: Fields, coordinates: list[int], rows: list[int] | None = None) -> Box:
    """`coordinates`: innermost first; `rows`: those of a gather or scatter, in place of the outer coordinates."""
    size, width = fields.element, fields.box[0]
    starts, inside = np.zeros(1, np.int64), np.ones(1, bool)
    for d in range(1, fields.rank):
        at = coordinates[d] + max(fields.element_strides[d], 1) * np.arange(fields.shape[d]) if rows is None else np.array(rows)
        starts = (starts[None, :] + (at * fields.strides[d - 1])[:, None]).reshape(-1)
        inside = (inside[None, :] & ((at >= 0) & (at < fields.sizes[d]))[:, None]).reshape(-1)
    first = min(max(-coordinates[0], 0), width)
    last = max(min(width, fields.sizes[0] - coordinates[0]), first)
    if last == first:
        inside = np.zeros_like(inside)
    base = fields.address - GLOBAL_WINDOW + (coordinates[0] + first) * size
    return Box(fields, inside, base + starts[inside], first * size, last * size)


def swizzled(offsets: np.ndarray, mode: int) -> np.ndarray:
    """Chunks' places. The shared arena gives CTAs multiples of 1024 bytes, so offsets have the low bits of addresses."""
    return offsets ^ ((offsets >> 7 & ((1 << mode) - 1)) << 4)


class MapOperand:
    """[tensorMap, {coordinates}]; a gather or scatter has an inner coordinate and four rows of a matrix."""

    def __init__(self, b: Binding, which: int, rank: int, four_rows: bool = False) -> None:
        self.b, self.rank, self.four_rows, self.instruction = b, rank, four_rows, b.instruction
        self.address = b.address(which)
        groups = b.extra(which, TYPES["s32"])
        wanted = 1 + ROWS if four_rows else rank
        if len(groups) != 1 or len(groups[0]) != wanted:
            b.fail(f"{wanted} coordinates are needed")
        self.coordinates = groups[0]

    def __call__(self, active: Active) -> list[tuple[int, Box]]:
        """(lane, box) of each active lane; a map that is not valid stops the launch."""
        machine = self.b.machine
        columns = [self.b.compact(c, active) for c in self.coordinates]
        found = []
        for i, (lane, address) in enumerate(zip(active.lanes, self.address(active), strict=True)):
            fields = read_map(machine, self.instruction, int(lane), int(address))
            if fields.rank != self.rank:
                message = f"the instruction takes a tensor of rank {self.rank}, the tensor map has rank {fields.rank}"
                machine.stop(reports.DESCRIPTOR, message, self.instruction, lane)
            if self.four_rows and fields.box[1] != 1:
                message = f"a gather or scatter of rows needs a box of one row, the tensor map has {fields.box[1]}"
                machine.stop(reports.DESCRIPTOR, message, self.instruction, lane)
            at = [int(c[i]) for c in columns]
            found.append((int(lane), box_at(fields, at, at[1:] if self.four_rows else None)))
        return found


def read_map(machine: Machine, instr: Instruction, lane: int, address: int) -> Fields:
    """The tensor map at a generic address."""
    one = Active.of_lanes(np.array([lane]), machine.lanes)
    space, where, _ = machine.memory.parts(None, np.array([address]))[0]
    if space not in ("param", "const", "global"):
        machine.stop(reports.DESCRIPTOR, f"a tensor map in {space} memory: param, const or global is needed", instr, lane)
    arena, offsets, good, _ = machine.memory.locate(instr, "tensor map", space, where, BYTES, one, MAP_ALIGNMENT)
    if good is not None:
        raise reports.Stop
    if space == "global":
        check_acquired(machine, instr, lane, int(offsets[0]))
    fields = Fields.unpack(arena.data[int(offsets[0]) : int(offsets[0]) + BYTES].tobytes())
    problems = fields.problems()
    if problems:
        machine.stop(reports.DESCRIPTOR, f"the tensor map is not valid: {'; '.join(problems)}", instr, lane)
    if fields.swizzle and fields.row_bytes < fields.span:
        message = f"the inner box has {fields.row_bytes} bytes, less than the span of the swizzle ({SWIZZLES[fields.swizzle]})"
        machine.stop(reports.DESCRIPTOR, f"{message}: where its rows lie is not modelled", instr, lane)
    return fields


@instruction("cp.async.bulk.tensor")
def tensor_copy(b: Binding) -> Step:
    rank = int(b.required("1d", "2d", "3d", "4d", "5d")[0])
    target = b.required("shared::cluster", "shared::cta", "global")
    if target == "global":
        b.required("shared::cta")
        four_rows = mode(b, "tile::scatter4")
        b.required("bulk_group")
        return store(b, MapOperand(b, 0, rank, four_rows), "tma store", None)
    b.required("global")
    return load(b, MapOperand(b, 1, rank, mode(b, "tile::gather4")))


def mode(b: Binding, four_rows: str) -> bool:
    """Whether four rows are gathered or scattered."""
    b.ignore("L2::cache_hint")
    return b.choice("tile", four_rows, default="tile") == four_rows


def load(b: Binding, box: MapOperand) -> Step:
    """[dst], [map, {coordinates}], [mbarrier] {, CTA mask} {, cache policy}"""
    b.required("mbarrier::complete_tx::bytes")
    multicast = b.flag("multicast::cluster")
    pair = b.choice("cta_group::1", "cta_group::2") == "cta_group::2"
    target, barrier = b.address(0), b.address(2)
    mask = b.source(3, TYPES["u16"]) if multicast else None
    machine = b.machine

    def run(active: Active) -> None:
        places, barriers = target(active), barrier(active)
        masks = b.compact(mask, active) if mask is not None else None
        for i, (lane, at) in enumerate(box(active)):
            good = check_rows(machine, b.instruction, lane, at.rows, "load", HINT)
            chosen = int(masks[i]) if masks is not None else None
            for place, signal in multicast_places(b, lane, int(places[i]), int(barriers[i]), chosen, pair):
                start = shared_place(b, lane, place, at.bytes, TILE_ALIGNMENT)
                if start is not None:
                    offsets, where = at.chunks(start), signal_place(b, lane, signal)
                    machine.memory.shared.note_swizzle(offsets, at.fields.swizzle)
                    deliver(machine, b.instruction, lane, "tma load", offsets, fetch(machine, at, good), where, at.bytes)

    return run


def fetch(machine: Machine, box: Box, good: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def read(old: np.ndarray) -> np.ndarray:
        fields = box.fields
        data = np.zeros((len(box.inside), fields.row_bytes), np.uint8)
        if fields.fill:
            nan = np.array([NANS[ELEMENT_TYPES[fields.type]]], f"u{fields.element}").view(np.uint8)
            data[:] = np.tile(nan, fields.box[0])
        data[np.flatnonzero(box.inside)[good], box.low : box.high] = box.rows.kept(good).data(machine)
        return data.reshape(-1, CHUNK)

    return read


def store(b: Binding, box: MapOperand, engine: str, operation: str | None) -> Step:
    """[map, {coordinates}], [src] {, cache policy}; what lies outside of the tensor is not written."""
    source, machine = b.address(1), b.machine

    def run(active: Active) -> None:
        places = source(active)
        for i, (lane, at) in enumerate(box(active)):
            start = shared_place(b, lane, int(places[i]), at.bytes, TILE_ALIGNMENT)
            if start is not None:
                good = check_rows(machine, b.instruction, lane, at.rows, "reduce" if operation else "store", HINT)
                put = writer(machine, at, good, operation)
                send(machine, b.instruction, lane, engine, at.chunks(start), at.rows.kept(good), put, operation is not None)

    return run


def writer(machine: Machine, box: Box, good: np.ndarray, operation: str | None) -> Callable[[np.ndarray, np.ndarray], None]:
    data = machine.memory.global_space.data
    chosen = np.flatnonzero(box.inside)[good]

    def put(index: np.ndarray, chunks: np.ndarray) -> None:
        new = chunks.reshape(len(box.inside), -1)[chosen, box.low : box.high]
        if operation is not None:
            new = combine_bytes(operation, ELEMENT_TYPES[box.fields.type], data[index], new)
        data[index] = new

    return put


@instruction("cp.reduce.async.bulk.tensor")
def tensor_reduce(b: Binding) -> Step:
    rank = int(b.required("1d", "2d", "3d", "4d", "5d")[0])
    b.required("global")
    b.required("shared::cta")
    operation = b.required(*OPERATIONS)
    b.ignore("tile", "L2::cache_hint")
    b.required("bulk_group")
    return store(b, MapOperand(b, 0, rank), "bulk reduce", operation)


@instruction("cp.async.bulk.prefetch.tensor")
def tensor_prefetch(b: Binding) -> Step:
    """Moves nothing that a kernel sees; the map must be valid."""
    rank = int(b.required("1d", "2d", "3d", "4d", "5d")[0])
    b.required("L2")
    b.required("global")
    box = MapOperand(b, 0, rank, mode(b, "tile::gather4"))

    def run(active: Active) -> None:
        box(active)

    return run
