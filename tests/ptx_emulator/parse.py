"""PTX text to syntax trees. The grammar is read generously (Triton's inline assembly has odd blanks), names strictly.

Three facts of real PTX shape this parser: scopes nest and may redeclare registers and labels (inline assembly does);
.loc and .file end with their line, everything else with `;`; and a `{` may open a scope, an operand vector or
an initialiser.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from .syntax import (
    Address,
    Function,
    Group,
    Immediate,
    Instruction,
    ModuleText,
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

TYPE_BYTES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4}
TYPE_BYTES |= {"f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16, "f16x2": 4, "bf16x2": 4, "f32x2": 8, "pred": 1}
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(?:[\w$%.]|::)+|[{}\[\]();,:@!|+\-<>=*/&^~?]')
# Strings, so that what is in them is left alone; comments; sections, which hold debug information: as long as the code, of bytes.
NOT_CODE = re.compile(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/|//[^\n]*|\.section\b[^{;]*\{[^{}]*\}', re.DOTALL)
SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid|clusterid|nclusterid|cluster_ctaid|cluster_nctaid)\.[xyz]$"
    r"|%(laneid|warpid|nwarpid|smid|nsmid|gridid|clock|clock_hi|clock64|globaltimer(_lo|_hi)?|lanemask_(eq|le|lt|ge|gt)"
    r"|cluster_ctarank|cluster_nctarank|is_explicit_cluster|dynamic_smem_size|total_smem_size|aggr_smem_size"
    r"|reserved_smem_offset_\w+|current_graph_exec|pm\d)$"
)
LINE_DIRECTIVES = {".loc", ".file", ".version", ".target", ".address_size"}


class Token(NamedTuple):
    text: str
    line: int


class Scope:
    """Names declared between a pair of braces."""

    def __init__(self, parent: Scope | None, suffix: str) -> None:
        self.parent, self.suffix = parent, suffix
        self.names: dict[str, Register | Variable | str] = {}

    def find(self, name: str) -> Register | Variable | str | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


def tokenize(text: str) -> list[Token]:
    def blank(match: re.Match[str]) -> str:
        word = match.group(0)
        return word if word.startswith('"') else " " + "\n" * word.count("\n")

    tokens, line, last = [], 1, 0
    text = NOT_CODE.sub(blank, text)
    for match in TOKEN.finditer(text):
        gap = text[last : match.start()]
        if gap.strip():
            raise PTXError(f"PTX line {line}: unexpected character {gap.strip()[0]!r}")
        line += gap.count("\n")
        word = match.group(0)
        if word[0] == "." and "." in word[1:] and word[1].isalpha():  # .reg.b32: directives may be written together
            tokens += [Token(f".{part}", line) for part in word[1:].split(".")]
        else:
            tokens.append(Token(word, line))
        last = match.end()
    return tokens


class Parser:
    """Recursive descent over the tokens of one file."""

    def __init__(self, text: str) -> None:
        self.tokens = tokenize(text)
        self.position = 0
        self.module = ModuleText()
        self.globals = Scope(None, "")
        self.scopes = 0  # scopes opened so far: makes the keys of inner names unique
        self.tables: list[tuple[str, tuple[str, ...], Scope]] = []  # .branchtargets of the function being read
        self.source: tuple[int, int] | None = None
        self.callers: tuple[tuple[int, int], ...] = ()
        self.inlined: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}  # (file, line, column) -> its callers

    # The token stream.

    def peek(self, ahead: int = 0) -> str:
        at = self.position + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    @property
    def line(self) -> int:
        return self.tokens[min(self.position, len(self.tokens) - 1)].line if self.tokens else 0

    def next(self) -> str:
        if self.position >= len(self.tokens):
            raise PTXError("unexpected end of the PTX text")
        self.position += 1
        return self.tokens[self.position - 1].text

    def accept(self, text: str) -> bool:
        if self.peek() == text:
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        line = self.line
        if (found := self.next()) != text:
            raise PTXError(f"PTX line {line}: expected {text!r}, found {found!r}")

    def rest_of_line(self) -> list[str]:
        line, words = self.line, []
        while self.position < len(self.tokens) and self.line == line:
            words.append(self.next())
        return words

    def error(self, message: str) -> PTXError:
        return PTXError(f"PTX line {self.line}: {message}")

    # The file.

    def parse(self) -> ModuleText:
        while self.position < len(self.tokens):
            self.top_level()
        return self.module

    def top_level(self) -> None:
        word = self.peek()
        if word in LINE_DIRECTIVES:
            self.line_directive()
        elif word in (".visible", ".extern", ".weak", ".common", ".entry", ".func", ".global", ".const", ".shared"):
            linkage = []
            while self.peek() in (".visible", ".extern", ".weak", ".common"):
                linkage.append(self.next())
            if self.peek() in (".entry", ".func"):
                self.function()
            else:
                variables = self.variables(self.globals, ".extern" in linkage)
                self.module.variables += variables
        elif word in (".pragma", ".alias"):
            while self.next() != ";":
                pass
        else:
            raise self.error(f"unexpected {word!r} at the top level")

    def line_directive(self) -> None:
        words = self.rest_of_line()
        if words[0] == ".loc":
            self.location(words)
        elif words[0] == ".file":
            self.module.files[int(words[1])] = words[2].strip('"')
        elif words[0] == ".version":
            self.module.version = words[1]
        elif words[0] == ".target":
            self.module.target = words[1]

    def location(self, words: list[str]) -> None:
        """.loc file line column [, function_name label, inlined_at file line column]

        Where the place of inlining was inlined itself, an earlier .loc has said so.
        """
        file, line, column = (int(w) for w in words[1:4])
        if not line:
            return
        self.source, self.callers = (file, line), ()
        if "inlined_at" in words:
            at = words.index("inlined_at")
            where = int(words[at + 1]), int(words[at + 2]), int(words[at + 3])
            self.callers = (where[:2], *self.inlined.get(where, ()))
        self.inlined[file, line, column] = self.callers

    # Declarations.

    def variables(self, scope: Scope, external: bool = False) -> list[Variable]:
        """.space [.align n] [.v2] .type name[dims] [= init] {, name ...};"""
        space = self.next()[1:]
        align, kind, lanes = 0, "b8", 1
        while self.peek().startswith(".") and len(self.peek()) > 1:
            word = self.next()[1:]
            if word == "align":
                align = int(self.next())
            elif word == "ptr":  # .ptr .global .align n: a promise about the pointer, not about the parameter
                while self.peek() in (".global", ".const", ".shared", ".local", ".align"):
                    if self.next() == ".align":
                        self.next()
            elif word in ("v2", "v4"):
                lanes = int(word[1])
            elif word in TYPE_BYTES:
                kind = word
            elif word not in ("attribute", "managed"):
                raise self.error(f"unknown type or attribute .{word} in a .{space} declaration")
        found = []
        while True:
            name, size = self.next(), TYPE_BYTES[kind] * lanes
            count: int | None = 1
            while self.accept("["):
                count = None if self.peek() == "]" else (count or 1) * int(self.next(), 0)
                self.expect("]")
            data = self.initializer(kind) if self.accept("=") else None
            total = None if count is None else size * count
            if data is not None and total is not None:
                data = data.ljust(total, b"\0")
            key = f"{name}{scope.suffix}"
            variable = Variable(name, key, space, align or size, total, kind, data, external)
            scope.names[name] = variable
            found.append(variable)
            if not self.accept(","):
                break
        if self.peek() == ";":
            self.next()
        return found

    def initializer(self, kind: str) -> bytes:
        if self.accept("{"):
            data = b""
            while not self.accept("}"):
                data += self.initializer(kind)
                self.accept(",")
            return data
        item = self.operand(self.globals)
        size = TYPE_BYTES[kind]
        if not isinstance(item, Immediate):
            raise self.error(f"initialiser {item} is not a literal")
        if kind in ("f32", "f64") and not item.float_bits:
            return struct.pack("<f" if kind == "f32" else "<d", item.value)
        return (int(item.value) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")

    def parameters(self, scope: Scope) -> list[Variable]:
        found = []
        self.expect("(")
        while not self.accept(")"):
            if self.peek() == ".reg":
                raise self.error("functions with .reg parameters are not supported")
            found += self.one_parameter(scope)
            self.accept(",")
        return found

    def one_parameter(self, scope: Scope) -> list[Variable]:
        """Like `variables`, but a comma ends it."""
        end, depth = self.position, 0
        while depth or self.tokens[end].text not in (",", ")"):
            depth += {"[": 1, "]": -1}.get(self.tokens[end].text, 0)
            end += 1
        ending = self.tokens[end]
        self.tokens[end] = Token(";", ending.line)
        found = self.variables(scope)
        self.position -= 1
        self.tokens[end] = ending
        return found

    # Functions.

    def function(self) -> None:
        is_entry = self.next() == ".entry"
        self.scopes += 1
        suffix = f"#{self.scopes}"
        scope = Scope(self.globals, suffix)
        function = Function("", is_entry)
        if self.peek() == "(":
            function.results = self.parameters(scope)
        function.name = self.next()
        if self.peek() == "(":
            function.parameters = self.parameters(scope)
        while self.peek() not in ("{", ";"):
            self.function_directive(function)
        if not self.accept(";"):
            self.expect("{")
            function.has_body = True
            pending: list[tuple[Instruction, Scope]] = []
            self.body(function, scope, pending)
            self.resolve(function, pending)
        known = self.module.functions.get(function.name)
        if known is None or function.has_body:
            self.module.functions[function.name] = function
        self.globals.names.setdefault(function.name, function.name)

    def function_directive(self, function: Function) -> None:
        word = self.next()
        if word in (".reqntid", ".maxntid", ".reqnctapercluster"):
            sizes = [int(self.next())]
            while self.accept(","):
                sizes.append(int(self.next()))
            shape = tuple((*sizes, 1, 1)[:3])
            attribute = {".reqntid": "required_block", ".maxntid": "largest_block", ".reqnctapercluster": "cluster"}[word]
            setattr(function, attribute, shape)
        elif word == ".explicitcluster":
            function.explicit_cluster = True
        elif word == ".maxnreg":
            function.largest_registers = int(self.next())
        elif word == ".minnctapersm":
            function.least_ctas = int(self.next())
        elif word in (".maxclusterrank", ".minnreg"):
            self.next()
        elif word == ".pragma":
            while self.next() != ";":
                pass
        elif word not in (".noreturn", ".blocksareclusters"):
            raise self.error(f"unknown function directive {word}")

    def body(self, function: Function, scope: Scope, pending: list[tuple[Instruction, Scope]]) -> None:
        while not self.accept("}"):
            word = self.peek()
            if word == "{":
                self.next()
                self.scopes += 1
                self.body(function, Scope(scope, f"{scope.suffix}.{self.scopes}"), pending)
            elif self.peek(1) == ":" and word not in ("@",):
                self.label(function, scope)
            elif word == ".reg":
                self.registers(function, scope)
            elif word in (".shared", ".local", ".param", ".global", ".const"):
                function.variables += self.variables(scope)
            elif word in LINE_DIRECTIVES:
                self.line_directive()
            elif word == ".pragma":
                while self.next() != ";":
                    pass
            elif word == ";":
                self.next()
            elif word.startswith("."):
                raise self.error(f"unknown directive {word}")
            else:
                pending.append((self.instruction(scope), scope))
                function.instructions.append(pending[-1][0])

    def label(self, function: Function, scope: Scope) -> None:
        name = self.next()
        self.expect(":")
        key = f"{name}{scope.suffix}"
        scope.names[name] = key
        if self.peek() in (".branchtargets", ".calltargets", ".callprototype"):
            words = []
            while (word := self.next()) != ";":
                words.append(word)
            if words[0] == ".branchtargets":
                self.tables.append((key, tuple(w for w in words[1:] if w != ","), scope))
        else:
            function.labels[key] = len(function.instructions)

    def registers(self, function: Function, scope: Scope) -> None:
        self.expect(".reg")
        kind = self.next()[1:]
        if kind not in TYPE_BYTES:
            raise self.error(f"unknown register type .{kind}")
        while True:
            name = self.next()
            names = [name]
            if self.accept("<"):
                names = [f"{name}{i}" for i in range(int(self.next()))]
                self.expect(">")
            for each in names:
                register = Register(f"{each}{scope.suffix}", kind)
                scope.names[each] = register
                function.registers[register.key] = kind
            if self.accept(";"):
                return
            self.expect(",")

    # Instructions.

    def instruction(self, scope: Scope) -> Instruction:
        start, line = self.position, self.line
        guard, negated = None, False
        if self.accept("@"):
            negated = self.accept("!")
            name = self.next()
            found = scope.find(name)
            if not isinstance(found, Register):
                raise PTXError(f"PTX line {line}: guard {name} is not a declared predicate")
            guard = found
        opcode, *modifiers = self.next().split(".")
        operands = []
        while self.peek() != ";":
            operands.append(self.operand(scope))
            while self.accept("|"):
                operands[-1] = Pair(operands[-1], self.operand(scope))
            if not self.accept(","):
                break
        self.expect(";")
        text = self.spell(start, self.position - 1)
        return Instruction(opcode, tuple(modifiers), tuple(operands), line, text, guard, negated, self.source, self.callers)

    def spell(self, start: int, end: int) -> str:
        text = " ".join(t.text for t in self.tokens[start:end])
        text = re.sub(r"(?<=[@!\[({|+]) | (?=[\],)}|;+])", "", text)
        text = re.sub(r"- (?=\w)", "-", text)
        return re.sub(r"\{([^{},]+)(?:, [^{},]+){8,}, ([^{},]+)\}", r"{\1, ..., \2}", text)  # accumulators fill a page

    def operand(self, scope: Scope) -> Operand:
        word = self.next()
        if word == "{":
            return Vector(self.operands_until("}", scope))
        if word == "(":
            return Group(self.operands_until(")", scope))
        if word == "[":
            base = self.operand(scope)
            offset = 0
            while self.peek() in ("+", "-"):
                sign = 1 if self.next() == "+" else -1
                while self.accept("-"):
                    sign = -sign
                offset += sign * int(self.next().rstrip("U"), 0)
            extra = self.operands_until("]", scope) if self.accept(",") else ()
            if extra and offset:
                raise self.error("an address with coordinates takes no offset")
            if not extra and self.tokens[self.position - 1].text != "]":
                self.expect("]")
            return Address(base, offset, extra)
        if word == "!":
            return Not(self.operand(scope))
        if word == "-":
            item = self.operand(scope)
            if not isinstance(item, Immediate) or item.float_bits:
                raise self.error("minus sign before something that is not a number")
            return Immediate(-item.value)
        if word == "_":
            return Sink()
        if word[0].isdigit() or re.match(r"\.\d", word):
            return self.literal(word)
        return self.name(word, scope)

    def operands_until(self, end: str, scope: Scope) -> tuple[Operand, ...]:
        items: list[Operand] = []
        while not self.accept(end):
            items.append(self.operand(scope))
            self.accept(",")
        return tuple(items)

    def literal(self, word: str) -> Immediate:
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", word):
            return Immediate(int(word[2:], 16), 32)
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", word):
            return Immediate(int(word[2:], 16), 64)
        digits = word.rstrip("U")
        if re.fullmatch(r"0[xX][0-9a-fA-F]+|0[bB][01]+|[1-9]\d*|0", digits):
            return Immediate(int(digits, 0))
        if re.fullmatch(r"0[0-7]+", digits):
            return Immediate(int(digits, 8))
        if re.fullmatch(r"\d*\.?\d+([eE]-?\d+)?|\d+\.", word):
            return Immediate(float(word))
        raise self.error(f"cannot read the number {word!r}")

    def name(self, word: str, scope: Scope) -> Operand:
        found = scope.find(word)
        if isinstance(found, Register):
            return found
        if isinstance(found, Variable):
            return Symbol(word, found)
        if SPECIAL.fullmatch(word):
            return Special(word[1:])
        if word == "WARP_SZ":
            return Immediate(32)
        if word.startswith("%"):
            raise self.error(f"unknown register {word}")
        return Symbol(word)  # a label or function: resolved when the function has been read

    def resolve(self, function: Function, pending: list[tuple[Instruction, Scope]]) -> None:
        """Turn label and function names, which may be used before they are declared, into keys."""

        def fix(operand: Operand, scope: Scope, line: int) -> Operand:
            if isinstance(operand, Symbol) and operand.target is None:
                found = scope.find(operand.name)
                if isinstance(found, Variable):
                    return Symbol(operand.name, found)
                if found is None and operand.name != function.name:
                    raise PTXError(f"PTX line {line}: {operand.name} is not declared")
                return Symbol(operand.name, found if isinstance(found, str) else operand.name)
            if isinstance(operand, Vector):
                return Vector(tuple(fix(x, scope, line) for x in operand.items))
            if isinstance(operand, Group):
                return Group(tuple(fix(x, scope, line) for x in operand.items))
            if isinstance(operand, Address):
                extra = tuple(fix(x, scope, line) for x in operand.extra)
                return Address(fix(operand.base, scope, line), operand.offset, extra)
            return operand

        for instruction, scope in pending:
            instruction.operands = tuple(fix(x, scope, instruction.line) for x in instruction.operands)
        for key, names, scope in self.tables:
            found = tuple(scope.find(name) for name in names)
            for name, label in zip(names, found, strict=True):
                if not isinstance(label, str):
                    raise PTXError(f"branch table {key}: {name} is not declared")
            function.tables[key] = found
        self.tables.clear()


def parse(text: str) -> ModuleText:
    """Parse a PTX file."""
    return Parser(text).parse()
