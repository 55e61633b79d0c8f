"""What the parser produces: modules, functions, variables, instructions and their operands."""

from __future__ import annotations

from dataclasses import dataclass, field


class PTXError(Exception):
    """The text is not PTX that this emulator understands. The message names the PTX line and the instruction."""


@dataclass(frozen=True)
class Register:
    """A virtual register. `key` is unique in the module: names may repeat in nested scopes and in functions."""

    key: str
    type: str


@dataclass(frozen=True)
class Special:
    """A read-only register such as %tid.x, without its percent sign."""

    name: str


@dataclass(frozen=True)
class Variable:
    """Named memory in one of the state spaces: global, const, shared, local, param."""

    name: str
    key: str  # unique in the module
    space: str
    align: int
    size: int | None  # None: extern array without a size, the dynamic shared memory
    type: str = "b8"
    data: bytes | None = None  # the initialiser
    external: bool = False


@dataclass(frozen=True)
class Symbol:
    """A variable's address, or the name of a function, label or table."""

    name: str
    target: Variable | str | None = None


@dataclass(frozen=True)
class Immediate:
    """A literal: `value` is an int, or the bits of 0f... / 0d... and then `float_bits` is 32 or 64, or a Python float."""

    value: int | float
    float_bits: int = 0


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    """[base + offset], or [base, {coordinates}, ...] of the tensor instructions."""

    base: Operand
    offset: int = 0
    extra: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Pair:
    """p|q: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Not:
    """!p"""

    operand: Operand


@dataclass(frozen=True)
class Sink:
    """_: the value is thrown away."""


@dataclass(frozen=True)
class Group:
    """(a, b, ...): the argument lists of a call."""

    items: tuple[Operand, ...]


Operand = Register | Special | Symbol | Immediate | Vector | Address | Pair | Not | Sink | Group


@dataclass
class Instruction:
    """One instruction. `opcode` is the first word, `modifiers` the rest: add.rn.f32 -> "add", ("rn", "f32")."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    line: int  # in the PTX text
    text: str
    guard: Register | None = None
    guard_negated: bool = False
    source: tuple[int, int] | None = None  # (file number, line) of the last .loc
    callers: tuple[tuple[int, int], ...] = ()  # where the function of that line was inlined, innermost first
    index: int = -1  # position in the program it is part of

    @property
    def name(self) -> str:
        return ".".join((self.opcode, *self.modifiers))

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass
class Function:
    """A .entry or .func: its registers, memory and code. `labels` maps unique label keys to instruction indices."""

    name: str
    is_entry: bool
    parameters: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)  # key -> type
    variables: list[Variable] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # .branchtargets: key -> label keys
    required_block: tuple[int, int, int] | None = None  # .reqntid
    largest_block: tuple[int, int, int] | None = None  # .maxntid
    cluster: tuple[int, int, int] | None = None  # .reqnctapercluster
    explicit_cluster: bool = False
    largest_registers: int | None = None  # .maxnreg
    least_ctas: int = 1  # .minnctapersm
    has_body: bool = False


@dataclass
class ModuleText:
    """A parsed PTX file."""

    version: str = ""
    target: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    files: dict[int, str] = field(default_factory=dict)
