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
from ..spaces import GLOBAL_WINDOW, RANK_SHIFT
from ..syntax import Instruction
from ..tensor_map import BYTES, NANS, SWIZZLES, Fields
from ..tensor_map import TYPES as ELEMENT_TYPES
from .bulk_groups import CHUNK, GlobalRows, check_rows, deliver, send
from .bulk_reduce import OPERATIONS, combine_bytes
from .mbarrier import mbarriers
from .tensormap import check_acquired

TILE_ALIGNMENT = 128
MAP_ALIGNMENT = 64
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


def box_at(fields: Fields, coordinates: list[int]) -> Box:
    """`coordinates`: innermost first."""
    size, shape = fields.element, fields.shape
    starts, inside = np.zeros(1, np.int64), np.ones(1, bool)
    for d in range(1, fields.rank):
        at = coordinates[d] + max(fields.element_strides[d], 1) * np.arange(shape[d])
        starts = (starts[None, :] + (at * fields.strides[d - 1])[:, None]).reshape(-1)
        inside = (inside[None, :] & ((at >= 0) & (at < fields.sizes[d]))[:, None]).reshape(-1)
    first = min(max(-coordinates[0], 0), shape[0])
    last = max(min(shape[0], fields.sizes[0] - coordinates[0]), first)
    if last == first:
        inside = np.zeros_like(inside)
    base = fields.address - GLOBAL_WINDOW + (coordinates[0] + first) * size
    return Box(fields, inside, base + starts[inside], first * size, last * size)


def swizzled(offsets: np.ndarray, mode: int) -> np.ndarray:
    """Chunks' places. The shared arena gives CTAs multiples of 1024 bytes, so offsets have the low bits of addresses."""
    return offsets ^ ((offsets >> 7 & ((1 << mode) - 1)) << 4)


def chunks_of(fields: Fields, start: int) -> np.ndarray:
    """Arena offsets of the 16-byte chunks of a box that is stored at `start`, in the order of the box."""
    return swizzled(start + np.arange(0, fields.box_bytes, CHUNK), fields.swizzle)


class MapOperand:
    """[tensorMap, {coordinates}]"""

    def __init__(self, b: Binding, which: int, rank: int) -> None:
        self.b, self.rank, self.instruction = b, rank, b.instruction
        self.address = b.address(which)
        groups = b.extra(which, TYPES["s32"])
        if len(groups) != 1 or len(groups[0]) != rank:
            b.fail(f"a tensor of rank {rank} needs {rank} coordinates")
        self.coordinates = groups[0]

    def __call__(self, active: Active) -> list[tuple[int, Fields, list[int]]]:
        """(lane, the map, coordinates) of each active lane; a map that is not valid stops the launch."""
        machine = self.b.machine
        columns = [self.b.compact(c, active) for c in self.coordinates]
        found = []
        for i, (lane, address) in enumerate(zip(active.lanes, self.address(active), strict=True)):
            fields = read_map(machine, self.instruction, int(lane), int(address))
            if fields.rank != self.rank:
                message = f"the instruction takes a tensor of rank {self.rank}, the tensor map has rank {fields.rank}"
                machine.stop(reports.DESCRIPTOR, message, self.instruction, lane)
            found.append((int(lane), fields, [int(c[i]) for c in columns]))
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


def tile_place(b: Binding, lane: int, address: int, space: str | None, fields: Fields) -> int | None:
    """The arena offset of a box's place in shared memory, None (after a report) if it is not all right."""
    machine = b.machine
    one = Active.of_lanes(np.array([lane]), machine.lanes)
    name, where, _ = machine.memory.parts(space, np.array([address]))[0]
    _, offsets, good, _ = machine.memory.locate(b.instruction, "tile", name, where, fields.box_bytes, one, TILE_ALIGNMENT)
    return int(offsets[0]) if good is None else None


def completion_place(b: Binding, lane: int, address: int, space: str | None) -> int:
    one = Active.of_lanes(np.array([lane]), b.machine.lanes)
    return mbarriers(b.machine).locate(b, space, np.array([address]), one)[0]


@instruction("cp.async.bulk.tensor")
def tensor_copy(b: Binding) -> Step:
    rank = int(b.required("1d", "2d", "3d", "4d", "5d")[0])
    target = b.required("shared::cluster", "shared::cta", "global")
    if target == "global":
        b.required("shared::cta")
        tiled(b)
        b.flag("bulk_group")
        return store(b, rank, "tma store", None)
    b.required("global")
    return load(b, rank)


def tiled(b: Binding) -> None:
    b.flag("tile")
    b.ignore("L2::cache_hint")
    if b.left and b.left[0].startswith(("im2col", "tile")):
        b.fail(f".{b.left[0]} is not supported")


def load(b: Binding, rank: int) -> Step:
    """[dst], [map, {coordinates}], [mbarrier] {, CTA mask} {, cache policy}"""
    tiled(b)
    b.required("mbarrier::complete_tx::bytes")
    multicast = b.flag("multicast::cluster")
    pair = b.choice("cta_group::1", "cta_group::2") == "cta_group::2"
    target, box, barrier = b.address(0), MapOperand(b, 1, rank), b.address(2)
    mask = b.source(3, TYPES["u16"]) if multicast else None
    machine = b.machine

    def run(active: Active) -> None:
        places, barriers = target(active), barrier(active)
        masks = b.compact(mask, active) if mask is not None else None
        for i, (lane, fields, coordinates) in enumerate(box(active)):
            at = box_at(fields, coordinates)
            good = check_rows(machine, b.instruction, lane, at.rows, "load", HINT)
            targets = [(int(places[i]), int(barriers[i]))]
            if masks is not None:
                targets = copies(b, lane, *targets[0], int(masks[i]), pair)
            elif not pair:
                check_same_cta(b, lane, *targets[0])
            for place, signal in targets:
                start = tile_place(b, lane, place, "shared", fields)
                if start is not None:
                    where = completion_place(b, lane, signal, "shared")
                    offsets = chunks_of(fields, start)
                    machine.memory.shared.note_swizzle(offsets, fields.swizzle)
                    deliver(machine, b.instruction, lane, "tma load", offsets, fetch(machine, at, good), where, fields.box_bytes)

    return run


def fetch(machine: Machine, box: Box, good: np.ndarray) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        fields = box.fields
        data = np.zeros((len(box.inside), fields.row_bytes), np.uint8)
        if fields.fill:
            nan = np.array([NANS[ELEMENT_TYPES[fields.type]]], f"u{fields.element}").view(np.uint8)
            data[:] = np.tile(nan, fields.box[0])
        data[np.flatnonzero(box.inside)[good], box.low : box.high] = box.rows.kept(good).data(machine)
        return data.reshape(-1, CHUNK)

    return read


def check_same_cta(b: Binding, lane: int, place: int, signal: int) -> None:
    here, there = place >> RANK_SHIFT, signal >> RANK_SHIFT
    if here != there and b.machine.cluster_size > 1:
        message = f"the destination lies in the cluster's CTA {here}, its mbarrier in CTA {there}: both must be in one"
        b.machine.report(reports.DESCRIPTOR, message, b.instruction, lane)


def copies(b: Binding, lane: int, place: int, signal: int, mask: int, pair: bool) -> list[tuple[int, int]]:
    """(destination, mbarrier) in each CTA of a multicast: the same offsets as in the operands.

    With .cta_group::2 the mbarrier is that of the CTA in each pair whose parity is that of the mbarrier operand.
    """
    machine = b.machine
    if mask >> machine.cluster_size or not mask:
        message = f"the CTA mask {mask:#x} of a multicast names CTAs outside of the cluster of {machine.cluster_size}"
        machine.report(reports.DESCRIPTOR, message if mask else "the CTA mask of a multicast is empty", b.instruction, lane)
    low = (1 << RANK_SHIFT) - 1
    found = []
    for rank in range(machine.cluster_size):
        if mask >> rank & 1:
            owner = (rank & ~1) | (signal >> RANK_SHIFT & 1) if pair else rank
            found.append((rank << RANK_SHIFT | place & low, owner << RANK_SHIFT | signal & low))
    return found


def store(b: Binding, rank: int, engine: str, operation: str | None) -> Step:
    """[map, {coordinates}], [src] {, cache policy}; what lies outside of the tensor is not written."""
    box, source = MapOperand(b, 0, rank), b.address(1)
    machine = b.machine

    def run(active: Active) -> None:
        places = source(active)
        for i, (lane, fields, coordinates) in enumerate(box(active)):
            start = tile_place(b, lane, int(places[i]), "shared", fields)
            if start is None:
                continue
            at = box_at(fields, coordinates)
            good = check_rows(machine, b.instruction, lane, at.rows, "reduce" if operation else "store", HINT)
            put = writer(machine, at, good, operation)
            send(machine, b.instruction, lane, engine, chunks_of(fields, start), at.rows.kept(good), put, operation is not None)

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
    tiled(b)
    b.flag("bulk_group")
    return store(b, rank, "bulk reduce", operation)


@instruction("cp.async.bulk.prefetch.tensor")
def tensor_prefetch(b: Binding) -> Step:
    """Moves nothing that a kernel sees; the map must be valid."""
    rank = int(b.required("1d", "2d", "3d", "4d", "5d")[0])
    b.required("L2")
    b.required("global")
    tiled(b)
    box = MapOperand(b, 0, rank)
    return lambda active: box(active) and None
