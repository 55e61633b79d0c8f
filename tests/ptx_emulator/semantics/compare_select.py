"""Comparisons and choices: setp, set, selp, slct."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import numerics as nx
from ..binding import Binding, Step, instruction
from ..registers import TYPES, Active, ScalarType
from .arithmetic import PACKED, is_float

ORDERED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
FLOAT_ONLY = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")


def comparison(b: Binding, kind: ScalarType) -> Callable[[Any, Any], np.ndarray]:
    name = b.required(*FLOAT_ONLY, *ORDERED, *UNSIGNED_NAMES)
    ftz = b.flag("ftz")
    if not is_float(kind.name):
        if name in FLOAT_ONLY:
            b.fail(f".{name} compares floats")
        return ORDERED[UNSIGNED_NAMES.get(name, name)]
    element = PACKED.get(kind.name, kind.name)

    def run(x: Any, y: Any) -> np.ndarray:
        if element == "bf16":
            x, y = nx.bf16_to_f32(x), nx.bf16_to_f32(y)
        elif ftz and element == "f32":
            x, y = nx.flush(x), nx.flush(y)
        nan = np.isnan(x) | np.isnan(y)
        if name in ("num", "nan"):
            return nan if name == "nan" else ~nan
        if name in ORDERED:  # false if either is NaN; NumPy's != is true then
            result = ORDERED[name](x, y)
            return result & ~nan if name == "ne" else result
        return ORDERED[name[:2]](x, y) | nan

    return run


@instruction("setp")
def setp(b: Binding) -> Step:
    kind = b.type()
    compare = comparison(b, kind)
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, None: None}[b.choice("and", "or", "xor")]
    pred = TYPES["pred"]
    first, second = b.pair(0, pred, pred)
    if kind.name in PACKED:
        return packed_setp(b, kind, compare, first, second)
    x, y = b.source(1, kind), b.source(2, kind)
    third = b.predicate(3) if combine is not None else None
    if combine is None and second is None and compare in ORDERED.values():
        out = first.array
        return lambda active: compare(x, y, out=out, where=active.where)  # type: ignore[call-arg]

    def run(active: Active) -> None:
        result = compare(x, y)
        other = None if second is None else ~result
        if combine is not None:
            # `other` is computed before `result` is combined: q = !(a cmp b) op c
            other = None if other is None else combine(other, third())  # type: ignore[misc]
            result = combine(result, third())  # type: ignore[misc]
        first.write(result, active)
        if second is not None:
            second.write(other, active)

    return run


def packed_setp(b: Binding, kind: ScalarType, compare: Callable[[Any, Any], np.ndarray], first: Any, second: Any) -> Step:
    """setp.f16x2 p|q: p for the low half, q for the high."""
    element = TYPES[PACKED[kind.name]]
    x, y = b.source(1, kind), b.source(2, kind)
    lanes = b.machine.lanes

    def halves(v: Any) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(v, (lanes,))).view(element.dtype).reshape(lanes, -1)

    def run(active: Active) -> None:
        result = compare(halves(x), halves(y))
        first.write(result[:, 0], active)
        if second is not None:
            second.write(result[:, 1], active)

    return run


@instruction("set")
def set_value(b: Binding) -> Step:
    """1.0 or all ones where the comparison holds, else 0."""
    kind = b.type()
    result = b.type()
    compare = comparison(b, kind)
    destination, x, y = b.destination(0, result), b.source(1, kind), b.source(2, kind)
    yes = result.dtype.type(1.0) if result.kind == "f" else np.array(-1).astype(result.dtype)[()]
    if result.name == "bf16":
        yes = np.uint16(0x3F80)
    if kind.name in PACKED:
        return packed_set(b, kind, result, compare)
    return lambda active: destination.write(np.where(compare(x, y), yes, result.dtype.type(0)), active)


def packed_set(b: Binding, kind: ScalarType, result: ScalarType, compare: Callable[[Any, Any], np.ndarray]) -> Step:
    """set.gt.u32.f16x2 gives 0xFFFF for each half where it holds, set.gt.f16x2.f16x2 gives 1.0."""
    element = TYPES[PACKED[kind.name]]
    yes = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(result.name, 0xFFFF)
    destination, x, y = b.destination(0, result), b.source(1, kind), b.source(2, kind)

    def halves(v: Any) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(v, (b.machine.lanes,))).view(element.dtype)

    def run(active: Active) -> None:
        bits = np.where(compare(halves(x), halves(y)), np.uint16(yes), np.uint16(0))
        destination.write(bits.view(result.dtype), active)

    return run


@instruction("selp")
def selp(b: Binding) -> Step:
    kind = b.type()
    destination, x, y, predicate = b.destination(0, kind), b.source(1, kind), b.source(2, kind), b.predicate(3)
    return lambda active: destination.write(np.where(predicate(), x, y), active)


@instruction("slct")
def slct(b: Binding) -> Step:
    condition = b.type()
    kind = b.type()
    b.flag("ftz")
    destination, x, y, c = b.destination(0, kind), b.source(1, kind), b.source(2, kind), b.source(3, condition)
    return lambda active: destination.write(np.where(c >= 0, x, y), active)
