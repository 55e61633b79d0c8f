"""How an instruction becomes something that runs: the registry of instruction families, and what a handler is given.

A handler is called once for each instruction of a kernel, when the kernel is loaded (against a small machine, to find
unknown modifiers) and for each launch. It reads the modifiers and operands from its Binding and returns a step:

    a function of Active                 does the work for the active lanes; the program counter moves on by itself
    Branch(index)                        a jump
    Control(function of Active, pc)      may set program counters, block or end lanes (machine.scheduler)
    Collective(function, members)        runs when all lanes of the member mask (an array or scalar of uint32) are there

Modifiers that no call consumed are an error, so a handler only ever runs what it understood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .registers import POISON, TYPES, Active, Destination, Discard, ScalarType
from .spaces import RANK_SHIFT
from .syntax import (
    Address,
    Immediate,
    Instruction,
    Not,
    Operand,
    Pair,
    PTXError,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
)

if TYPE_CHECKING:
    from .machine import Machine

Plain = Callable[[Active], None]


@dataclass
class Branch:
    """Jump to an instruction index."""

    target: int


@dataclass
class Control:
    """`run(active, pc)` is called when all lanes of the group, predicated off or not, have moved on to pc + 1."""

    run: Callable[[Active, int], None]


@dataclass
class Collective:
    """`run(active)` is called when the lanes named by `members` have arrived, with whole member groups."""

    run: Plain
    members: Any


Step = Plain | Branch | Control | Collective
Handler = Callable[["Binding"], Step]
HANDLERS: dict[str, Handler] = {}


def instruction(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for opcodes, or for opcodes with leading modifiers ("cp.async.wait_group"). The longest wins."""

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in HANDLERS:
                raise ValueError(f"{name} has two handlers")
            HANDLERS[name] = handler
        return handler

    return register


def bind(instr: Instruction, machine: Machine) -> Step:
    """The step of an instruction on a machine."""
    words = (instr.opcode, *instr.modifiers)
    for length in range(len(words), 0, -1):
        handler = HANDLERS.get(".".join(words[:length]))
        if handler is None:
            continue
        binding = Binding(instr, machine, list(words[length:]))
        try:
            step = handler(binding)
        except (TypeError, KeyError, IndexError, AttributeError, AssertionError) as problem:
            raise PTXError(f"PTX {instr}: cannot be decoded: {type(problem).__name__}: {problem}") from problem
        if binding.left:
            binding.fail(f"unknown modifier .{binding.left[0]} of {'.'.join(words[:length])}")
        return step
    raise PTXError(f"PTX {instr}: unknown instruction {instr.opcode}")


class AddressOperand:
    """[base + offset]. Calling it with the active lanes gives one int64 address for each."""

    __slots__ = ("base", "offset", "variable")

    def __init__(self, base: np.ndarray | int, offset: int, variable: Variable | None) -> None:
        self.base, self.offset, self.variable = base, offset, variable

    def __call__(self, active: Active) -> np.ndarray:
        if isinstance(self.base, int):
            return np.full(active.count, self.base + self.offset, np.int64)
        return np.add(self.base[active.index], self.offset, dtype=np.int64, casting="unsafe")


class Binding:
    """An instruction being bound: its modifiers are consumed one by one, its operands turned into arrays.

    Sources are live arrays over all lanes, or NumPy scalars; both may be combined in ufuncs with `where=active.where`,
    and `compact` gives one value for each active lane.
    """

    def __init__(self, instr: Instruction, machine: Machine, left: list[str]) -> None:
        self.instruction, self.machine, self.left = instr, machine, left
        self.operands = instr.operands

    def fail(self, message: str) -> NoReturn:
        raise PTXError(f"PTX {self.instruction}: {message}")

    # Modifiers.

    def flag(self, name: str) -> bool:
        """Whether a modifier is there."""
        if name in self.left:
            self.left.remove(name)
            return True
        return False

    def choice(self, *names: str, default: str | None = None) -> str | None:
        """The one of these modifiers that is there."""
        for word in self.left:
            if word in names:
                self.left.remove(word)
                return word
        return default

    def required(self, *names: str) -> str:
        found = self.choice(*names)
        if found is None:
            self.fail(f"one of {', '.join('.' + n for n in names)} is missing")
        return found

    def ignore(self, *names: str) -> None:
        """Consume modifiers that make no difference here."""
        for name in names:
            while self.flag(name):
                pass

    def type(self) -> ScalarType:
        """The last modifier, as a type."""
        if not self.left or self.left[-1] not in TYPES:
            self.fail("the type is missing" if not self.left else f"unknown type .{self.left[-1]}")
        return TYPES[self.left.pop()]

    # Operands: by position, or an operand taken out of a vector or pair.

    def operand(self, which: int | Operand) -> Operand:
        if isinstance(which, int):
            if not -len(self.operands) <= which < len(self.operands):
                self.fail(f"operand {which} is missing")
            return self.operands[which]
        return which

    def source(self, which: int | Operand, kind: ScalarType) -> Any:
        operand = self.operand(which)
        if isinstance(operand, Register):
            return self.machine.registers.view(operand.key, kind)
        if isinstance(operand, Immediate):
            return self._literal(operand, kind)
        if isinstance(operand, Special):
            array = self.machine.special(operand.name)
            if kind.size > array.dtype.itemsize:
                self.fail(f"%{operand.name} has {8 * array.dtype.itemsize} bits")
            return array.view(kind.dtype)[:: array.dtype.itemsize // kind.size]
        if isinstance(operand, Symbol):
            address = self.address_of(operand)
            return address.astype(kind.dtype) if isinstance(address, np.ndarray) else kind.dtype.type(address)
        return self.fail(f"{operand} cannot be read as .{kind.name}")

    def _literal(self, literal: Immediate, kind: ScalarType) -> Any:
        value = literal.value
        if kind.kind == "p":
            return np.bool_(bool(value))
        if literal.float_bits:
            bits = np.array(value, np.uint32 if literal.float_bits == 32 else np.uint64)
            number = bits.view(np.float32 if literal.float_bits == 32 else np.float64)
            if kind.kind == "f":
                return number.astype(kind.dtype)[()]
            return bits.view(kind.dtype)[()] if bits.dtype.itemsize == kind.size else self.fail("literal of the wrong width")
        if kind.kind == "f":
            return kind.dtype.type(value)
        return np.array(int(value) & ((1 << kind.bits) - 1), f"u{kind.size}").view(kind.dtype)[()]

    def constant(self, which: int | Operand) -> int:
        """A literal integer."""
        operand = self.operand(which)
        if not isinstance(operand, Immediate) or not isinstance(operand.value, int):
            self.fail(f"operand {operand} must be an integer literal")
        return operand.value

    def optional(self, which: int, kind: ScalarType, default: int) -> Any:
        return self.source(which, kind) if which < len(self.operands) else kind.dtype.type(default)

    def predicate(self, which: int | Operand) -> Callable[[], Any]:
        """A function that gives the predicate's present values over all lanes, negation applied."""
        operand = self.operand(which)
        negated = isinstance(operand, Not)
        array = self.source(operand.operand if isinstance(operand, Not) else operand, TYPES["pred"])
        return (lambda: ~array) if negated else (lambda: array)

    def destination(self, which: int | Operand, kind: ScalarType) -> Destination:
        operand = self.operand(which)
        if isinstance(operand, Sink):
            return Discard(kind, self.machine.lanes)
        if not isinstance(operand, Register):
            self.fail(f"{operand} cannot be written")
        register = self.machine.registers.arrays[operand.key]
        if (kind.kind == "p") != (register.dtype == bool) or register.dtype.itemsize < min(kind.size, 8):
            self.fail(f"register {operand.key} is too narrow or of the wrong kind for .{kind.name}")
        return Destination(register, kind)

    def pair(self, which: int, first: ScalarType, second: ScalarType) -> tuple[Destination, Destination | None]:
        """d|p, or d alone."""
        operand = self.operand(which)
        if isinstance(operand, Pair):
            return self.destination(operand.first, first), self.destination(operand.second, second)
        return self.destination(operand, first), None

    def items(self, which: int | Operand) -> tuple[Operand, ...]:
        """The elements of a vector operand; a scalar counts as a vector of one."""
        operand = self.operand(which)
        return operand.items if isinstance(operand, Vector) else (operand,)

    def sources(self, which: int | Operand, kind: ScalarType) -> list[Any]:
        return [self.source(item, kind) for item in self.items(which)]

    def destinations(self, which: int | Operand, kind: ScalarType) -> list[Destination]:
        return [self.destination(item, kind) for item in self.items(which)]

    def compact(self, source: Any, active: Active) -> np.ndarray:
        """One value of a source for each active lane."""
        if isinstance(source, np.ndarray) and source.ndim:
            return source[active.index]
        return np.full(active.count, source)

    # Addresses.

    def address_of(self, symbol: Symbol) -> np.ndarray | int:
        """The address that `mov` of a name gives: in the variable's own space, generic for global memory."""
        target = symbol.target
        if not isinstance(target, Variable):
            self.fail(f"{symbol.name} is not a variable")
        address = self.machine.addresses[target.key]
        if target.space == "shared" and self.machine.cluster_size > 1:
            return self.machine.cta_rank.astype(np.int64) << RANK_SHIFT | address
        return address

    def address(self, which: int | Operand) -> AddressOperand:
        operand = self.operand(which)
        if not isinstance(operand, Address):
            self.fail(f"{operand} is not an address")
        base = operand.base
        if isinstance(base, Register):
            size = self.machine.registers.arrays[base.key].dtype.itemsize
            array = self.machine.registers.view(base.key, TYPES["s64" if size == 8 else f"u{8 * size}"])
            return AddressOperand(array, operand.offset, None)
        if isinstance(base, Immediate):
            return AddressOperand(int(base.value), operand.offset, None)
        if isinstance(base, Symbol):
            variable = base.target if isinstance(base.target, Variable) else None
            return AddressOperand(self.address_of(base), operand.offset, variable)
        return self.fail(f"{operand} is not an address")

    def extra(self, which: int | Operand, kind: ScalarType) -> list[list[Any]]:
        """The operands after the comma in [base, {a, b}, ...], each as a list of sources."""
        operand = self.operand(which)
        if not isinstance(operand, Address):
            self.fail(f"{operand} is not an address")
        return [self.sources(item, kind) for item in operand.extra]

    def space(self, default: str | None = None) -> str | None:
        """Consume the state space. None: a generic address. A trailing ::cta or ::cluster is dropped."""
        for word in self.left:
            name, _, scope = word.partition("::")
            if name in ("global", "shared", "local", "param", "const") and scope in ("", "cta", "cluster", "entry", "func"):
                self.left.remove(word)
                return name
        return default


def poison(kind: ScalarType) -> Any:
    """What an unwritten register of this type holds."""
    return np.array(POISON & ((1 << kind.bits) - 1), f"u{kind.size}").view(kind.dtype)[()]
