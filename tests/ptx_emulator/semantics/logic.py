"""Moves, bits and addresses: mov, cvta, mapa's plain relatives, and or xor not lop3 shl shr shf bfe bfi prmt popc clz brev."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..binding import Binding, Step, instruction
from ..memory import BASES
from ..registers import TYPES, UNSIGNED, Active, ScalarType
from ..syntax import Special, Vector
from .arithmetic import elementwise, ufunc

CLOCKS = ("clock", "clock64", "globaltimer", "clock_hi", "globaltimer_lo", "globaltimer_hi")


@instruction("mov")
def mov(b: Binding) -> Step:
    kind = b.type()
    first, second = b.operand(0), b.operand(1)
    if isinstance(first, Vector):
        return unpack(b, kind)
    if isinstance(second, Vector):
        return pack(b, kind)
    destination = b.destination(0, kind)
    if isinstance(second, Special) and second.name in CLOCKS:
        return lambda active: destination.write(kind.dtype.type(b.machine.step), active)
    source = b.source(1, kind)
    return lambda active: destination.write(source, active)


def unpack(b: Binding, kind: ScalarType) -> Step:
    """mov.b64 {a, b}, c"""
    items = b.items(0)
    part = TYPES[f"b{kind.bits // len(items)}"]
    destinations = [b.destination(item, part) for item in items]
    source = b.source(1, kind)
    if kind.size == 16:
        return lambda active: [d.write(source[:, i], active) for i, d in enumerate(destinations)] and None

    def run(active: Active) -> None:
        # Copied first: a destination may be the source of a later part.
        parts = np.ascontiguousarray(np.broadcast_to(source, (b.machine.lanes,))).view(part.dtype).reshape(-1, len(items)).copy()
        for i, destination in enumerate(destinations):
            destination.write(parts[:, i], active)

    return run


def pack(b: Binding, kind: ScalarType) -> Step:
    items = b.items(1)
    part = TYPES[f"b{kind.bits // len(items)}"]
    sources = [b.source(item, part) for item in items]
    lanes = b.machine.lanes
    if kind.size == 16:
        register = b.machine.registers.arrays[b.operand(0).key]  # type: ignore[union-attr]
        return lambda active: (
            np.copyto(register[active.index], 0)
            or ([register[:, i].__setitem__(active.index, b.compact(s, active)) for i, s in enumerate(sources)] and None)
        )
    destination = b.destination(0, kind)

    def run(active: Active) -> None:
        whole = np.empty((lanes, len(items)), part.dtype)
        for i, source in enumerate(sources):
            whole[:, i] = source
        destination.write(whole.view(kind.dtype)[:, 0], active)

    return run


@instruction("cvta")
def cvta(b: Binding) -> Step:
    kind = b.type()
    to_space = b.flag("to")
    space = b.space("global")
    base = kind.dtype.type(BASES[space])  # type: ignore[index]
    destination, source = b.destination(0, kind), b.source(1, kind)
    if to_space:
        return lambda active: destination.write(source - base, active)
    return lambda active: destination.write(source + base, active)


@instruction("isspacep")
def isspacep(b: Binding) -> Step:
    space = b.space()
    destination, source = b.destination(0, TYPES["pred"]), b.source(1, TYPES["u64"])
    window = BASES[space] >> 44 if space != "global" else 7  # type: ignore[index]
    return lambda active: destination.write(np.asarray(source) >> np.uint64(44) == window, active)


@instruction("and", "or", "xor")
def logic(b: Binding) -> Step:
    kind = b.type()
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[b.instruction.opcode]
    if kind.kind == "p":
        destination = b.destination(0, kind)
        x, y = b.predicate(1), b.predicate(2)
        return lambda active: destination.write(function(x(), y()), active)
    return ufunc(b, kind, function)


@instruction("not", "cnot")
def invert(b: Binding) -> Step:
    kind = b.type()
    if b.instruction.opcode == "cnot":
        return elementwise(b, kind, lambda x: (x == 0).astype(kind.dtype), 1)
    destination, source = b.destination(0, kind), b.source(1, kind)
    return lambda active: destination.write(~source, active)


@instruction("lop3")
def lop3(b: Binding) -> Step:
    kind = b.type()
    if b.choice("BoolOp", "or", "and") is not None:
        b.fail("the predicate form is not supported")
    table = b.constant(4)

    def run(x: Any, y: Any, z: Any) -> np.ndarray:
        result = np.zeros_like(np.broadcast_arrays(x, y, z)[0])
        for row in range(8):
            if table >> row & 1:
                result = result | (x if row & 4 else ~x) & (y if row & 2 else ~y) & (z if row & 1 else ~z)
        return result

    return elementwise(b, kind, run, 3)


@instruction("shl", "shr")
def shift(b: Binding) -> Step:
    """The amount is 32-bit and clamped: everything is shifted out (arithmetic: all sign bits)."""
    kind = b.type()
    left = b.instruction.opcode == "shl"
    destination, x, amount = b.destination(0, kind), b.source(1, kind), b.source(2, TYPES["u32"])
    function = np.left_shift if left else np.right_shift
    if not isinstance(amount, np.ndarray) and int(amount) < kind.bits:
        fixed = kind.dtype.type(int(amount))
        if destination.exact:
            out = destination.array
            return lambda active: function(x, fixed, out=out, where=active.where)
        return lambda active: destination.write(function(x, fixed), active)
    most = np.uint32(kind.bits - 1)

    def run(active: Active) -> None:
        result = function(x, np.minimum(amount, most).astype(kind.dtype))
        if left or kind.kind != "s":
            result = np.where(amount > most, kind.dtype.type(0), result)
        destination.write(result, active)

    return run


@instruction("shf")
def funnel(b: Binding) -> Step:
    kind = b.type()
    left = b.required("l", "r") == "l"
    wrap = b.required("wrap", "clamp") == "wrap"
    destination = b.destination(0, kind)
    low, high, amount = (b.source(i, TYPES["u32"]) for i in (1, 2, 3))

    def run(active: Active) -> None:
        count = amount & np.uint32(31) if wrap else np.minimum(amount, np.uint32(32))
        count = np.asarray(count).astype(np.uint64)
        both = np.asarray(low).astype(np.uint64) | np.asarray(high).astype(np.uint64) << np.uint64(32)
        result = (both << count) >> np.uint64(32) if left else both >> count
        destination.write(np.asarray(result).astype(np.uint32), active)

    return run


@instruction("bfe")
def bit_field_extract(b: Binding) -> Step:
    kind = b.type()
    unsigned = TYPES[f"u{kind.bits}"]
    destination, x = b.destination(0, unsigned), b.source(1, unsigned)
    position, length = b.source(2, TYPES["u32"]), b.source(3, TYPES["u32"])
    one, top = unsigned.dtype.type(1), kind.bits - 1

    def run(active: Active) -> None:
        start, count = (np.asarray(v) & np.uint32(255) for v in (position, length))
        shifted = np.where(start > top, unsigned.dtype.type(0), x >> np.minimum(start, top).astype(unsigned.dtype))
        mask = np.where(count > top, ~unsigned.dtype.type(0), (one << np.minimum(count, top).astype(unsigned.dtype)) - one)
        result = shifted & mask
        if kind.kind == "s":
            sign_at = np.minimum(start.astype(np.int64) + count - 1, top).clip(0).astype(unsigned.dtype)
            negative = ((x >> sign_at) & one == 1) & (count > 0)
            result = np.where(negative, result | ~mask, result)
        destination.write(result, active)

    return run


@instruction("bfi")
def bit_field_insert(b: Binding) -> Step:
    kind = b.type()
    destination, field, base = b.destination(0, kind), b.source(1, kind), b.source(2, kind)
    position, length = b.source(3, TYPES["u32"]), b.source(4, TYPES["u32"])
    one, zero, top = kind.dtype.type(1), kind.dtype.type(0), kind.bits - 1

    def run(active: Active) -> None:
        start, count = (np.asarray(v) & np.uint32(255) for v in (position, length))
        low = np.where(count > top, ~zero, (one << np.minimum(count, top).astype(kind.dtype)) - one)
        by = np.minimum(start, top).astype(kind.dtype)
        mask = np.where(start > top, zero, low << by)
        destination.write(base & ~mask | (field << by) & mask, active)

    return run


@instruction("bmsk")
def bit_mask(b: Binding) -> Step:
    kind = b.type()
    clamp = b.required("clamp", "wrap") == "clamp"
    destination, position, length = b.destination(0, kind), b.source(1, TYPES["u32"]), b.source(2, TYPES["u32"])

    def run(active: Active) -> None:
        start, count = (np.asarray(v).astype(np.uint64) for v in (position, length))
        limit = np.uint64(32)
        start, count = (np.minimum(v, limit) if clamp else v & np.uint64(31) for v in (start, count))
        destination.write((((np.uint64(1) << count) - np.uint64(1)) << start).astype(np.uint32), active)

    return run


@instruction("prmt")
def permute(b: Binding) -> Step:
    kind = b.type()
    mode = b.choice("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    destination = b.destination(0, kind)
    x, y, selector = (b.source(i, TYPES["u32"]) for i in (1, 2, 3))
    lanes = b.machine.lanes

    def bytes_of(source: Any) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(source, (lanes,))).view(np.uint8).reshape(lanes, 4)

    def choice(source: Any) -> np.ndarray:
        """(lanes or 1, 4): for each result byte, which of the eight bytes; bit 3: its sign instead."""
        value = np.atleast_1d(np.asarray(source)).astype(np.int64)[:, None]
        i = np.arange(4)
        if mode is None:
            return value >> 4 * i & 15
        n = value & 3
        return {
            "f4e": lambda: n + i,
            "b4e": lambda: n - i & 7,
            "rc8": lambda: n + 0 * i,
            "ecl": lambda: np.maximum(n, i),
            "ecr": lambda: np.minimum(n, i),
            "rc16": lambda: (n & 1) * 2 + (i & 1),
        }[mode]()

    fixed = choice(selector) if not isinstance(selector, np.ndarray) or selector.ndim == 0 else None

    def run(active: Active) -> None:
        pool = np.concatenate([bytes_of(x), bytes_of(y)], axis=1)
        pick = choice(selector) if fixed is None else fixed
        if len(pick) == 1:
            result = pool[:, pick[0] & 7]
        else:
            result = np.take_along_axis(pool, pick & 7, axis=1)
        signs = (pick & 8) != 0
        if signs.any():
            result = np.where(signs, np.where(result & 128, np.uint8(255), np.uint8(0)), result)
        destination.write(np.ascontiguousarray(result).view(np.uint32)[:, 0], active)

    return run


def bits_of(x: np.ndarray, kind: ScalarType) -> np.ndarray:
    """(n, bits), least significant first."""
    little = np.ascontiguousarray(np.atleast_1d(x)).view(np.uint8).reshape(-1, kind.size)
    return np.unpackbits(little, axis=1, bitorder="little")


@instruction("popc")
def popc(b: Binding) -> Step:
    kind = b.type()
    destination, x = b.destination(0, TYPES["u32"]), b.source(1, kind)
    return lambda active: destination.write(np.bitwise_count(x).astype(np.uint32), active)


@instruction("clz")
def clz(b: Binding) -> Step:
    kind = b.type()
    destination, x = b.destination(0, TYPES["u32"]), b.source(1, kind)

    def run(active: Active) -> None:
        bits = bits_of(np.asarray(x), kind)[:, ::-1]
        destination.write(np.where(bits.any(axis=1), bits.argmax(axis=1), kind.bits).astype(np.uint32), active)

    return run


@instruction("bfind")
def bfind(b: Binding) -> Step:
    kind = b.type()
    amount = b.flag("shiftamt")
    destination, x = b.destination(0, TYPES["u32"]), b.source(1, kind)

    def run(active: Active) -> None:
        value = np.asarray(x)
        if kind.kind == "s":
            value = np.where(value < 0, ~value, value)
        bits = bits_of(value, kind)[:, ::-1]
        leading = bits.argmax(axis=1)
        found = leading if amount else kind.bits - 1 - leading
        destination.write(np.where(bits.any(axis=1), found, 0xFFFFFFFF).astype(np.uint32), active)

    return run


@instruction("brev")
def brev(b: Binding) -> Step:
    kind = b.type()
    destination, x = b.destination(0, kind), b.source(1, kind)

    def run(active: Active) -> None:
        reverse = np.packbits(bits_of(np.asarray(x), kind)[:, ::-1], axis=1, bitorder="little")
        destination.write(np.ascontiguousarray(reverse).view(UNSIGNED[kind.size])[:, 0], active)

    return run
