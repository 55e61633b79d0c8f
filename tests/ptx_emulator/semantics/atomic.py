"""atom and red on global and shared memory. The order among lanes is free: it is drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import numerics as nx
from ..binding import Binding, Step, instruction
from ..registers import TYPES, UNSIGNED, Active, Destination, ScalarType
from ..spaces import SharedSpace
from .arithmetic import PACKED, select_extreme
from .load_store import HINTS

OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec", "dec_clamp")


@instruction("atom", "red")
def atomic(b: Binding) -> Step:
    returns = b.instruction.opcode == "atom"
    kind = b.type()
    space = b.space()
    operation = b.required(*OPERATIONS)
    b.ignore("noftz", "ftz", *HINTS)
    count = b.choice("v2", "v4", "v8")
    elements = int(count[1]) if count else 1
    first = 1 if returns else 0
    address = b.address(first)
    destinations = b.destinations(0, kind) if returns and kind.size <= 8 else []
    if kind.size == 16:
        b.fail("128-bit atomics are not supported")
    operands = [b.sources(i, kind) for i in range(first + 1, first + (3 if operation == "cas" else 2))]
    combine = combination(operation, kind)

    def run(active: Active) -> None:
        addresses = address(active)
        for element in range(elements):
            values = [b.compact(sources[element], active) for sources in operands]
            destination = destinations[element] if returns else None
            act(b, space, addresses + element * kind.size, kind, combine, values, active, destination, kind.size * elements)

    return run


def combination(operation: str, kind: ScalarType) -> Callable[..., Any]:
    """old, operands -> new, on arrays."""
    element = PACKED.get(kind.name, kind.name)
    is_float = element in ("f16", "bf16", "f32", "f64")
    if operation == "exch":
        return lambda old, value: value
    if operation == "cas":
        return lambda old, compare, value: np.where(old == compare, value, old)
    if operation == "inc":
        return lambda old, limit: np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))
    if operation == "dec":
        return lambda old, limit: np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))
    if is_float and operation in ("min", "max"):
        return lambda old, value: select_extreme(old, value, element, operation == "min", False, False, False)
    if is_float and operation == "add":
        return lambda old, value: float_sum(old, value, element)
    functions = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    return functions[operation]


def float_sum(old: np.ndarray, value: np.ndarray, element: str) -> np.ndarray:
    if element == "bf16":
        return nx.f32_to_bf16(nx.bf16_to_f32(old) + nx.bf16_to_f32(value))
    return nx.canonical(old + value)


def act(
    b: Binding,
    space: str | None,
    addresses: np.ndarray,
    kind: ScalarType,
    combine: Callable[..., Any],
    values: list[np.ndarray],
    active: Active,
    destination: Destination | None,
    align: int,
) -> None:
    machine, instr = b.machine, b.instruction
    for name, where, which in machine.memory.parts(space, addresses):
        part = active if which is None else active.subset(which)
        inputs = values if which is None else [v[which] for v in values]
        arena, offsets, good, _ = machine.memory.locate(instr, "atomic", name, where, kind.size, part)
        if good is not None:
            part, offsets, inputs = part.subset(good), offsets[good], [v[good] for v in inputs]
        if not part.count:
            continue
        machine.memory._check_written(instr, arena, offsets, kind.size, part)
        if isinstance(arena, SharedSpace):
            machine.sanitizer.shared_access(instr, offsets, kind.size, part, None, atomic=True)
        elif machine.grid_races is not None:
            machine.grid_races.synchronise(part)
        machine.counters.add(f"{name}_atomics", part.count, instr)
        element = TYPES[PACKED.get(kind.name, kind.name)]
        per = kind.size // element.size
        cells = arena.data.view(element.dtype)
        index = (offsets // element.size)[:, None] + np.arange(per)
        parts = [np.ascontiguousarray(v).view(element.dtype).reshape(-1, per) for v in inputs]
        old = in_turn(machine.rng, cells, index, parts, combine)
        if destination is not None:
            result = np.ascontiguousarray(old).view(UNSIGNED[kind.size])[:, 0].view(kind.dtype)
            destination.put(result, part)


def in_turn(
    rng: np.random.Generator, cells: np.ndarray, index: np.ndarray, values: list[np.ndarray], combine: Callable[..., Any]
) -> np.ndarray:
    """Apply the lanes' operations one after the other where they meet; all first visitors at once, then the second ones.

    Returns the old values. The visiting order of lanes at one place is random.
    """
    count = len(index)
    order = rng.permutation(count)
    old = np.empty(index.shape, cells.dtype)
    while len(order):
        _, first = np.unique(index[order, 0], return_index=True)
        if len(first) * 4 < len(order):  # many lanes at few places: lane by lane is quicker than pass by pass
            for lane in order:
                old[lane] = cells[index[lane]]
                cells[index[lane]] = combine(old[lane], *[v[lane] for v in values])
            break
        now = order[first]
        old[now] = cells[index[now]]
        cells[index[now]] = combine(old[now], *[v[now] for v in values])
        order = np.delete(order, first)
    return old
