"""ld, ldu, st, and hints that move nothing: prefetch, discard, applypriority, createpolicy."""

from __future__ import annotations

import numpy as np

from ..binding import Binding, Step, instruction
from ..registers import TYPES, UNSIGNED, Active
from ..syntax import Address, Sink, Symbol, Variable

# Caching and ordering. Order between threads is the scheduler's and the race detector's business.
HINTS = (
    "ca",
    "cg",
    "cs",
    "cv",
    "lu",
    "wb",
    "wt",
    "nc",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "volatile",
    "mmio",
    "uni",
)
HINTS += ("cta", "cluster", "gpu", "sys", "unified", "L1::no_allocate", "L1::evict_last", "L1::evict_first")
HINTS += ("L1::evict_normal", "L1::evict_unchanged", "L2::cache_hint", "L2::64B", "L2::128B", "L2::256B")
ORDERING = {"volatile", "relaxed", "acquire", "release", "mmio"}
HINTS += ("L2::evict_last", "L2::evict_first", "L2::evict_normal")


def modifiers(b: Binding) -> tuple[str | None, int]:
    """(space, elements)."""
    space = b.space()
    b.ignore(*HINTS)
    count = b.choice("v2", "v4", "v8")
    return space, int(count[1]) if count else 1


@instruction("ld", "ldu")
def load(b: Binding) -> Step:
    kind = b.type()
    space, count = modifiers(b)
    destinations = b.destinations(0, kind)
    if len(destinations) != count:
        b.fail(f"{count} elements are loaded into {len(destinations)} registers")
    address = b.address(1)
    constant = kernel_parameter(b)
    if constant is not None and space == "param" and kind.size <= 8:
        raw = b.machine.memory.param.data[constant : constant + kind.size * count].view(kind.dtype)
        values = list(raw.copy())
        return lambda active: [d.write(v, active) for d, v in zip(destinations, values, strict=True)] and None
    if kind.size == 16:
        return load_wide(b, space, count)
    memory, instr = b.machine.memory, b.instruction
    plain = [(d, i) for i, d in enumerate(destinations) if not isinstance(b.items(0)[i], Sink)]

    ordered = bool(ORDERING & set(instr.modifiers))
    grid_races = b.machine.grid_races

    def run(active: Active) -> None:
        if ordered and grid_races is not None:
            grid_races.synchronise(active)
        memory.ordered = ordered
        values = memory.load(instr, space, address(active), kind.size, count, active)
        memory.ordered = False
        for destination, i in plain:
            destination.put(values[i].view(kind.dtype), active)

    return run


def kernel_parameter(b: Binding) -> int | None:
    """The offset in the parameter space of [name+offset] if the name is a parameter of the kernel."""
    operand = b.operand(1)
    if isinstance(operand, Address) and isinstance(operand.base, Symbol) and isinstance(operand.base.target, Variable):
        variable = operand.base.target
        if any(variable.key == p.key for p, _ in b.machine.kernel.parameters):
            return b.machine.addresses[variable.key] + operand.offset
    return None


def load_wide(b: Binding, space: str | None, count: int) -> Step:
    """.b128: registers of (lanes, 2) words."""
    registers = [b.machine.registers.arrays[item.key] for item in b.items(0)]  # type: ignore[union-attr]
    address, memory, instr = b.address(1), b.machine.memory, b.instruction

    def run(active: Active) -> None:
        rows = memory.load_rows(instr, space, address(active), 16 * count, active)
        for i, register in enumerate(registers):
            register[active.index] = np.ascontiguousarray(rows[:, 16 * i : 16 * i + 16]).view(np.uint64)

    return run


@instruction("st")
def store(b: Binding) -> Step:
    kind = b.type()
    space, count = modifiers(b)
    if kind.size == 16:
        return store_wide(b, space)
    items = b.items(1)
    if len(items) != count:
        b.fail(f"{count} elements are stored from {len(items)} registers")
    sources = [b.source(item, kind) for item in items]
    address, memory, instr = b.address(0), b.machine.memory, b.instruction
    unsigned = UNSIGNED[kind.size]
    ordered = bool(ORDERING & set(instr.modifiers))

    def run(active: Active) -> None:
        values = [np.ascontiguousarray(b.compact(s, active)).view(unsigned) for s in sources]
        memory.ordered = ordered
        memory.store(instr, space, address(active), values, active)
        memory.ordered = False

    return run


def store_wide(b: Binding, space: str | None) -> Step:
    registers = [b.machine.registers.arrays[item.key] for item in b.items(1)]  # type: ignore[union-attr]
    address, memory, instr = b.address(0), b.machine.memory, b.instruction

    def run(active: Active) -> None:
        rows = np.concatenate([r[active.index].view(np.uint8).reshape(active.count, 16) for r in registers], axis=1)
        memory.store_rows(instr, space, address(active), rows, active)

    return run


@instruction("prefetch", "prefetchu", "discard", "applypriority")
def hint(b: Binding) -> Step:
    b.space()
    b.ignore("L1", "L2", "tensormap", "param", *HINTS)
    return lambda active: None


@instruction("createpolicy")
def createpolicy(b: Binding) -> Step:
    """Cache policies have no effect here; the register gets a fixed value."""
    b.left.clear()
    destination = b.destination(0, TYPES["b64"])
    return lambda active: destination.write(np.uint64(0x12F0000000000000), active)
