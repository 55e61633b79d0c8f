"""A kernel ready to be bound: the entry and every function it may call, laid out as one list of instructions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .parse import TYPE_BYTES
from .syntax import Address, Function, Group, Instruction, ModuleText, Operand, PTXError, Symbol, Variable, Vector

# Smallest write to shared memory of opcodes whose size is not in their type.
SHARED_ACCESS = {"ldmatrix": 16, "stmatrix": 16, "wgmma": 16, "mbarrier": 8, "tensormap": 4, "tcgen05": 4}
LARGEST_CELL = 16


@dataclass
class Program:
    """`entries`: where each function starts. `exits`: the index one past each function's code falls back to ret."""

    name: str
    entry: Function
    target: str
    version: str
    files: dict[int, str]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    shared: list[Variable] = field(default_factory=list)  # static, in order of layout
    dynamic: list[Variable] = field(default_factory=list)  # extern arrays: all at the start of dynamic shared memory
    local: list[Variable] = field(default_factory=list)  # local variables and the parameters of calls
    parameters: list[tuple[Variable, int]] = field(default_factory=list)  # with their offsets
    parameter_bytes: int = 0
    cell: int = LARGEST_CELL  # bytes of shared memory that the sanitizer watches as one
    global_cell: int = LARGEST_CELL

    @property
    def arch(self) -> int:
        """80, 89, 90, 100, 120."""
        return int("".join(c for c in self.target.split(",")[0] if c.isdigit()))


def build(module: ModuleText, name: str) -> Program:
    """Lay out a kernel of a module."""
    entry = module.functions.get(name)
    if entry is None or not entry.is_entry:
        known = ", ".join(f.name for f in module.functions.values() if f.is_entry) or "none"
        raise PTXError(f"there is no kernel {name!r}; the module has: {known}")
    program = Program(name, entry, module.target, module.version, module.files)
    lay_out(program, module, entry, [])
    used = {v.key for i in program.instructions for v in variables_in(i.operands)}
    for variable in module.variables:
        if variable.space == "shared" and variable.key in used:
            (program.dynamic if variable.size is None else program.shared).append(variable)
    offset = 0
    for parameter in entry.parameters:
        offset = (offset + parameter.align - 1) // parameter.align * parameter.align
        program.parameters.append((parameter, offset))
        offset += parameter.size or 0
    program.parameter_bytes = offset
    program.cell = min([LARGEST_CELL, *(shared_access(i) for i in program.instructions)])
    program.global_cell = min([LARGEST_CELL, *(global_access(i) for i in program.instructions)])
    return program


def lay_out(program: Program, module: ModuleText, function: Function, callers: list[str]) -> None:
    """Append a function, its callees first: the scheduler runs low program counters first, so calls end before what
    follows them in the caller, and diverged lanes meet after the call.
    """
    if function.name in callers:
        raise PTXError(f"{program.name}: {function.name} calls itself; recursion is not supported")
    for called in callees(function):
        if called in module.functions and called not in program.functions:
            callee = module.functions[called]
            program.functions[called] = callee
            if callee.has_body:
                lay_out(program, module, callee, [*callers, function.name])
    append(program, function)


def append(program: Program, function: Function) -> None:
    start = len(program.instructions)
    program.entries[function.name] = start
    for position, instruction in enumerate(function.instructions):
        program.instructions.append(dataclasses.replace(instruction, index=start + position))
    last = function.instructions[-1] if function.instructions else None
    if last is None or last.opcode not in ("ret", "exit", "trap", "bra", "brx") or last.guard is not None:
        line = last.line if last else 0  # falling off the end returns
        program.instructions.append(Instruction("ret", (), (), line, "ret", index=len(program.instructions)))
    program.labels.update({key: start + at for key, at in function.labels.items()})
    # A label at the very end of a function points at the ret that follows.
    program.tables.update(function.tables)
    program.registers.update(function.registers)
    for variable in function.variables:
        if variable.space == "shared":
            (program.dynamic if variable.size is None else program.shared).append(variable)
        elif variable.space in ("local", "param"):
            program.local.append(variable)
    if not function.is_entry:
        program.local += function.parameters + function.results


def operands_in(operands: tuple[Operand, ...]) -> list[Operand]:
    found: list[Operand] = []
    for operand in operands:
        found.append(operand)
        if isinstance(operand, (Vector, Group)):
            found += operands_in(operand.items)
        elif isinstance(operand, Address):
            found += operands_in((operand.base, *operand.extra))
    return found


def variables_in(operands: tuple[Operand, ...]) -> list[Variable]:
    return [o.target for o in operands_in(operands) if isinstance(o, Symbol) and isinstance(o.target, Variable)]


def callees(function: Function) -> list[str]:
    """Functions a function names in its calls."""
    found = []
    for instruction in function.instructions:
        if instruction.opcode == "call":
            found += [o.name for o in operands_in(instruction.operands) if isinstance(o, Symbol) and isinstance(o.target, str)]
    return found


def vector_bytes(instruction: Instruction) -> int:
    """The bytes of a load or store of registers."""
    words = instruction.modifiers
    lanes = next((int(w[1:]) for w in words if w in ("v2", "v4", "v8")), 1)
    return min(TYPE_BYTES.get(words[-1], 1) * lanes, LARGEST_CELL)


def global_access(instruction: Instruction) -> int:
    """The smallest number of bytes of global memory that the instruction writes for a thread."""
    spaces = {w.split("::")[0] for w in instruction.modifiers}
    if instruction.opcode == "st" and not {"shared", "param", "local"} & spaces:
        return vector_bytes(instruction)
    if instruction.opcode == "tensormap" and "shared" not in spaces:
        return SHARED_ACCESS["tensormap"]
    return LARGEST_CELL


def shared_access(instruction: Instruction) -> int:
    """The smallest number of bytes of shared memory that the instruction writes at once.

    Only writes count: a write covers whole cells, so a read of part of a cell meets every write to it, and no other.
    """
    words = instruction.modifiers
    if instruction.opcode in SHARED_ACCESS:
        return SHARED_ACCESS[instruction.opcode]
    if instruction.opcode in ("st", "atom", "red") and not {"global", "param", "local"} & {w.split("::")[0] for w in words}:
        return vector_bytes(instruction)
    if instruction.opcode == "cp" and words[:2] in (("async", "ca"), ("async", "cg")):
        return int(getattr(instruction.operands[2], "value", 1))
    return LARGEST_CELL
