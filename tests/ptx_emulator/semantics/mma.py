"""mma.sync on dense operands: f16, bf16, tf32, fp8, fp6, fp4 and int8, with and without block scales; f64 excluded.

Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k*"): with g = lane / 4 and t = lane % 4, register r of A holds row
g + 8 (r & 1), columns per * t ... + K/2 (r >> 1), where `per` elements fill a register; B holds rows per * t ... + K/2 r of
column g; C and D hold (g + 8 (i >> 1), 2t + (i & 1)). Formats of six and four bits fill a byte: six bits the low ones, four
the bits 2-5; kinds mxf4 and mxf4nvf4 pack two E2M1 in a byte, the earlier one in the low half.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .. import numerics as nx
from ..binding import Binding, Step, instruction
from ..registers import TYPES, WARP, Active, Destination
from ..tensor_core import accumulate
from .block_scale import FORMS, scales
from .ldmatrix import whole_warps

ELEMENT_BITS = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "e2m1": 8, "e3m2": 8, "e2m3": 8}
ELEMENT_BITS["e2m1x2"] = 4  # packed
NARROW_KINDS = ("kind::f8f6f4", "kind::mxf8f6f4", "kind::mxf4", "kind::mxf4nvf4")
SMALLEST = {"e4m3": -6, "e5m2": -14}
GROUP, THREAD = np.arange(WARP) // 4, np.arange(WARP) % 4


def decode(words: np.ndarray, kind: str) -> np.ndarray:
    """(..., elements) float64 from contiguous 32-bit words."""
    words = np.ascontiguousarray(words)
    if kind == "f16":
        return words.view(np.float16).astype(np.float64)
    if kind == "bf16":
        return nx.bf16_to_f32(words.view(np.uint16)).astype(np.float64)
    if kind == "tf32":  # the low 13 bits are ignored
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    if kind in ("s8", "u8"):
        return words.view(np.int8 if kind == "s8" else np.uint8).astype(np.float64)
    table = nx.TABLES[kind]
    codes = words.view(np.uint8)
    if kind == "e2m1x2":
        return table[np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)]
    if kind == "e2m1":  # four bits in the middle of a byte
        codes = codes >> 2
    return table[codes & (len(table) - 1)]


def gather(b: Binding, sources: list[Any], active: Active) -> np.ndarray:
    """(warps, 32, registers) words."""
    return np.stack([b.compact(s, active).reshape(-1, WARP) for s in sources], axis=2)


class Fragments:
    """Where the elements of a 16 x 8 x K step lie in the registers of a warp."""

    def __init__(self, k: int, bits: int) -> None:
        per = 32 // bits
        self.k, self.per = k, per
        self.registers_a, self.registers_b = 16 * k // WARP // per, 8 * k // WARP // per
        j = np.arange(per)
        ra, rb = np.arange(self.registers_a), np.arange(self.registers_b)
        shape_a, shape_b = (WARP, self.registers_a, per), (WARP, self.registers_b, per)
        self.a_row = np.broadcast_to((GROUP[:, None] + 8 * (ra & 1))[:, :, None], shape_a)
        span = 4 * per  # columns that the four threads of a group cover with one register
        self.a_col = np.broadcast_to(per * THREAD[:, None, None] + j + span * (ra >> 1)[None, :, None], shape_a)
        self.b_row = np.broadcast_to(per * THREAD[:, None, None] + j + span * rb[None, :, None], shape_b)
        self.b_col = np.broadcast_to(GROUP[:, None, None], shape_b)
        i = np.arange(4)
        self.c_row = GROUP[:, None] + 8 * (i >> 1)
        self.c_col = 2 * THREAD[:, None] + (i & 1)

    def a(self, words: np.ndarray, kind: str) -> np.ndarray:
        """(warps, 16, k)"""
        out = np.zeros((len(words), 16, self.k))
        out[:, self.a_row, self.a_col] = decode(words, kind).reshape(len(words), WARP, self.registers_a, self.per)
        return out

    def b(self, words: np.ndarray, kind: str) -> np.ndarray:
        """(warps, k, 8)"""
        out = np.zeros((len(words), self.k, 8))
        out[:, self.b_row, self.b_col] = decode(words, kind).reshape(len(words), WARP, self.registers_b, self.per)
        return out


@instruction("mma.sync.aligned")
def mma(b: Binding) -> Step:
    """mma.sync.aligned.m16n8kK.row.col.{d}.{a}.{b}.{c} d, a, b, c; with block scales, their type and four more operands."""
    shape = next((w for w in b.left if re.fullmatch(r"m\d+n\d+k\d+", w)), "none")
    b.flag(shape)
    size = re.fullmatch(r"m16n8k(\d+)", shape)
    if size is None:
        b.fail(f"shape .{shape} is not supported")
    kind = (b.choice(*NARROW_KINDS) or "").removeprefix("kind::")
    scaled = b.flag("block_scale")
    if scaled != (kind in FORMS):
        b.fail("kinds mxf8f6f4, mxf4 and mxf4nvf4 have block scales, others do not")
    saturate = b.flag("satfinite")
    if not (b.flag("row") and b.flag("col")):
        b.fail("only .row.col is supported")
    apply = scales(b, kind, int(size.group(1))) if scaled else None
    if len(b.left) != 4:
        b.fail("four types are expected")
    d, kind_a, kind_b, c = b.left
    b.left.clear()
    if kind.startswith("mxf4"):
        kind_a, kind_b = f"{kind_a}x2", f"{kind_b}x2"
    if kind_a not in ELEMENT_BITS or kind_b not in ELEMENT_BITS or ELEMENT_BITS[kind_a] != ELEMENT_BITS[kind_b]:
        b.fail(f"operand types .{kind_a} and .{kind_b} are not supported")
    if (d, c) not in (("f32", "f32"), ("f16", "f16"), ("s32", "s32")):
        b.fail(f"accumulator types .{d} and .{c} are not supported")
    fragments = Fragments(int(size.group(1)), ELEMENT_BITS[kind_a])
    words = TYPES["b32"]
    sources = b.sources(1, words), b.sources(2, words)
    if len(sources[0]) != fragments.registers_a or len(sources[1]) != fragments.registers_b:
        b.fail(f"A and B need {fragments.registers_a} and {fragments.registers_b} registers")
    accumulator = TYPES[d] if d != "f16" else words
    results, initial = b.destinations(0, accumulator), b.sources(3, accumulator)
    machine = b.machine
    modelled = kind_a in SMALLEST and kind_b in SMALLEST and not scaled
    smallest = (SMALLEST[kind_a], SMALLEST[kind_b]) if modelled else None
    model = machine.options.numerics

    def run(active: Active) -> None:
        warps = whole_warps(b, active)
        a = fragments.a(gather(b, sources[0], active), kind_a)
        bb = fragments.b(gather(b, sources[1], active), kind_b)
        if apply is not None:
            a, bb = apply(active, a, bb)
        machine.counters.add("mma", len(warps), b.instruction)
        values = read_c(gather(b, initial, active), d, fragments)
        if d == "s32":
            total = np.matmul(a, bb).astype(np.int64) + values
            out = (np.clip(total, -(2**31), 2**31 - 1) if saturate else total).astype(np.int32)
        else:
            out = accumulate(a, bb, values, model, smallest, np.float16 if d == "f16" else np.float32)
        write_d(out[:, fragments.c_row, fragments.c_col], d, results, active)

    return run


def read_c(registers: np.ndarray, kind: str, fragments: Fragments) -> np.ndarray:
    """(warps, 16, 8) of the accumulator's type."""
    registers = np.ascontiguousarray(registers)
    if kind == "f16":
        registers = registers.view(np.float16).astype(np.float32)
    out = np.zeros((len(registers), 16, 8), registers.dtype)
    out[:, fragments.c_row, fragments.c_col] = registers
    return out


def write_d(values: np.ndarray, kind: str, results: list[Destination], active: Active) -> None:
    """(warps, 32, 4)"""
    if kind == "f16":
        packed = np.ascontiguousarray(values.astype(np.float16)).view(np.uint32)
        values = packed.reshape(*values.shape[:2], 2)
    for i, destination in enumerate(results):
        destination.put(values[:, :, i].reshape(-1), active)
