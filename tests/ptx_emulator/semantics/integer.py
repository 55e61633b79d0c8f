"""Integer instructions beyond arithmetic.py: multiply-add with carry, dot products of bytes, sums of differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..binding import Binding, Step, instruction
from ..registers import TYPES, UNSIGNED, Active, ScalarType
from .arithmetic import elementwise, high_product


@instruction("mad.lo.cc", "mad.hi.cc", "madc.lo", "madc.hi")
def multiply_add_carry(b: Binding) -> Step:
    """The low or high half of a * b, plus c, plus the carry (madc); .cc sets the carry."""
    kind = b.type()
    words = b.instruction.modifiers
    high, reads, writes = words[0] == "hi", b.instruction.opcode == "madc", "cc" in words
    b.flag("cc")
    unsigned = TYPES[f"u{kind.bits}"]
    destination, x, y, z = b.destination(0, unsigned), b.source(1, kind), b.source(2, kind), b.source(3, unsigned)
    machine = b.machine

    def run(active: Active) -> None:
        carry = machine.family_state("carry", lambda: np.zeros(machine.lanes, bool))
        product = np.asarray(high_product(x, y, kind) if high else np.multiply(x, y)).view(unsigned.dtype)
        first = np.broadcast_to(product + z, (machine.lanes,))
        result = first + carry.astype(unsigned.dtype) if reads else first
        out = (first < product) | (result < first)
        destination.write(result, active)
        if writes:
            np.copyto(carry, out, where=active.where)

    return run


@instruction("dp4a", "dp2a")
def dot_product(b: Binding) -> Step:
    """dp4a.u32.s32 d, a, b, c: four products of bytes. dp2a: halves of a with two bytes of b, low or high."""
    second = b.type()
    first = b.type()
    pairs = b.instruction.opcode == "dp2a"
    part = b.required("lo", "hi") if pairs else "lo"
    result = TYPES["s32" if "s" in first.kind + second.kind else "u32"]
    destination, x, y, z = b.destination(0, result), b.source(1, TYPES["u32"]), b.source(2, TYPES["u32"]), b.source(3, result)
    lanes = b.machine.lanes

    def split(source: Any, kind: ScalarType, size: int) -> np.ndarray:
        words = np.ascontiguousarray(np.broadcast_to(source, (lanes,)))
        dtype = np.dtype(f"i{size}" if kind.kind == "s" else f"u{size}")
        return words.view(dtype).reshape(lanes, -1).astype(np.int64)

    def run(active: Active) -> None:
        left, right = split(x, first, 2 if pairs else 1), split(y, second, 1)
        if pairs:
            right = right[:, 2:] if part == "hi" else right[:, :2]
        total = (left * right).sum(axis=1) + np.asarray(z).astype(np.int64)
        destination.write(total.astype(np.uint32).view(result.dtype), active)

    return run


@instruction("sad")
def sum_of_differences(b: Binding) -> Step:
    """Accumulate: c + |a - b|."""
    kind = b.type()

    def run(x: Any, y: Any, z: Any) -> np.ndarray:
        larger = np.asarray(np.maximum(x, y)).view(UNSIGNED[kind.size])
        smaller = np.asarray(np.minimum(x, y)).view(UNSIGNED[kind.size])
        return z + (larger - smaller).view(kind.dtype)

    return elementwise(b, kind, run, 3)
