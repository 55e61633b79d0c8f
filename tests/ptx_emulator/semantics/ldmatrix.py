"""ldmatrix, stmatrix, movmatrix: 8x8 matrices of 16-bit elements spread over a warp."""

from __future__ import annotations

import numpy as np

from .. import reports
from ..binding import Binding, Step, instruction
from ..registers import TYPES, WARP, Active


def whole_warps(b: Binding, active: Active) -> np.ndarray:
    """(warps, 32) lane numbers. An .aligned instruction executed by part of a warp is undefined: stop."""
    if active.rows is not None:
        full = active.by_warp(np.ones(active.count, bool), False).sum(axis=1)
        lane = int(active.warps[int(np.argmax(full < WARP))]) * WARP
        b.machine.stop(reports.DIVERGENCE, "an .aligned instruction is executed by part of a warp", b.instruction, lane)
    return active.lanes.reshape(-1, WARP)


def matrices(b: Binding) -> int:
    return int(b.required("x1", "x2", "x4")[1:])


@instruction("ldmatrix")
def ldmatrix(b: Binding) -> Step:
    """Lanes 8i..8i+7 give the addresses of the eight 16-byte rows of matrix i; lane 4r+j gets elements 2j, 2j+1 of row r.

    .m16n16.b8 (transposed bytes) takes 16 rows of 16 bytes for each matrix and gives two registers.
    """
    b.ignore("sync", "aligned")
    shape = b.required("m8n8", "m16n16")
    count = matrices(b)
    transposed = b.flag("trans")
    b.space()
    element = b.required("b16", "b8")
    if (shape == "m16n16") != (element == "b8"):
        b.fail(f".{shape} with .{element} is not supported")
    if shape == "m16n16" and not transposed:
        b.fail(".m16n16 needs .trans")
    rows_each = 8 if shape == "m8n8" else 16
    destinations = b.destinations(0, TYPES["b32"])
    if len(destinations) != count * (1 if shape == "m8n8" else 2):
        b.fail(f"{len(destinations)} registers for {count} matrices")
    address, memory, instr, machine = b.address(1), b.machine.memory, b.instruction, b.machine

    def run(active: Active) -> None:
        lanes = whole_warps(b, active)
        given = address(active).reshape(-1, WARP)[:, : rows_each * count]
        readers = Active.of_lanes(lanes[:, : rows_each * count].reshape(-1), machine.lanes)
        rows = memory.load_rows(instr, "shared", given.reshape(-1), 16, readers)
        machine.counters.add("ldmatrix", len(lanes), instr)
        if shape == "m8n8":
            block = rows.view(np.uint16).reshape(len(lanes), count, 8, 8)
            block = np.ascontiguousarray(block.transpose(0, 1, 3, 2) if transposed else block)
            registers = block.view(np.uint32).reshape(len(lanes), count, WARP)
        else:  # transposed 16x16 bytes: two 8x8 halves of 16-bit pairs, rows 0-7 then 8-15 of the transpose
            block = np.ascontiguousarray(rows.reshape(len(lanes), count, 16, 16).transpose(0, 1, 3, 2))
            registers = block.view(np.uint32).reshape(len(lanes), count * 2, WARP)
        for i, destination in enumerate(destinations):
            destination.put(registers[:, i].reshape(-1), active)

    return run


@instruction("stmatrix")
def stmatrix(b: Binding) -> Step:
    """The inverse of ldmatrix. .m16n8.b8 stores 16x8 bytes transposed: eight rows of 16 bytes."""
    b.ignore("sync", "aligned")
    shape = b.required("m8n8", "m16n8")
    count = matrices(b)
    transposed = b.flag("trans")
    b.space()
    element = b.required("b16", "b8")
    if (shape == "m16n8") != (element == "b8"):
        b.fail(f".{shape} with .{element} is not supported")
    sources = b.sources(1, TYPES["b32"])
    if len(sources) != count:
        b.fail(f"{len(sources)} registers for {count} matrices")
    address, memory, instr, machine = b.address(0), b.machine.memory, b.instruction, b.machine

    def run(active: Active) -> None:
        lanes = whole_warps(b, active)
        given = address(active).reshape(-1, WARP)[:, : 8 * count]
        writers = Active.of_lanes(lanes[:, : 8 * count].reshape(-1), machine.lanes)
        registers = np.stack([b.compact(s, active).reshape(-1, WARP) for s in sources], axis=1)
        if element == "b16":
            block = registers.view(np.uint16).reshape(len(lanes), count, 8, 8)
            block = block.transpose(0, 1, 3, 2) if transposed else block
        else:  # lane 4c+j holds, of column pair c... the 16x8 matrix as 8 rows of its transpose, 16 bytes each
            block = stored_bytes(registers)
        rows = np.ascontiguousarray(block).view(np.uint8).reshape(-1, 16)
        machine.counters.add("stmatrix", len(lanes), instr)
        memory.store_rows(instr, "shared", given.reshape(-1), rows, writers)

    return run


def stored_bytes(registers: np.ndarray) -> np.ndarray:
    """(warps, n, 32) words to (warps, n, 8, 16) bytes: the fragment of an m16n8 byte matrix, transposed.

    Lane 4g+t holds elements (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1); row c of the result is column c.
    """
    data = registers.view(np.uint8).reshape(*registers.shape[:2], 8, 4, 2, 2)  # warps, n, g, t, half, pair
    # column = 2t + pair, row = g + 8 * half
    return data.transpose(0, 1, 3, 5, 4, 2).reshape(*registers.shape[:2], 8, 16)


@instruction("movmatrix")
def movmatrix(b: Binding) -> Step:
    b.ignore("sync", "aligned", "m8n8", "trans", "b16")
    destination, source = b.destination(0, TYPES["b32"]), b.source(1, TYPES["b32"])

    def run(active: Active) -> None:
        lanes = whole_warps(b, active)
        block = np.ascontiguousarray(b.compact(source, active)).view(np.uint16).reshape(len(lanes), 8, 8)
        turned = np.ascontiguousarray(block.transpose(0, 2, 1)).view(np.uint32)
        destination.put(turned.reshape(-1), active)

    return run
