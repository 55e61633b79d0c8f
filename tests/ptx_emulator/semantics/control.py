"""Branches, calls and ends: bra, brx.idx, call, ret, exit, trap."""

from __future__ import annotations

import re
import struct

import numpy as np

from .. import reports
from ..binding import Binding, Branch, Control, Step, instruction
from ..machine import Machine
from ..registers import TYPES, Active
from ..spaces import LOCAL_WINDOW
from ..syntax import Group, Symbol, Variable

DEEPEST_CALL = 32


def target(b: Binding, name: object) -> int:
    labels = b.machine.kernel.labels
    key = name.target if isinstance(name, Symbol) else name
    if not isinstance(key, str) or key not in labels:
        b.fail(f"{name} is not a label")
    return labels[key]


@instruction("bra")
def bra(b: Binding) -> Step:
    b.ignore("uni")
    return Branch(target(b, b.operand(0)))


@instruction("brx.idx")
def brx(b: Binding) -> Step:
    b.ignore("uni")
    index = b.source(0, TYPES["u32"])
    table = b.operand(1)
    names = b.machine.kernel.tables[table.target] if isinstance(table, Symbol) else ()
    targets = np.array([target(b, name) for name in names], np.int32)
    machine = b.machine

    def run(active: Active, pc: int) -> None:
        which = b.compact(index, active)
        wild = which >= len(targets)
        if wild.any():
            lane = active.lanes[int(np.argmax(wild))]
            machine.stop(reports.ASSERTION, f"branch index {int(which[wild][0])} of {len(targets)} targets", b.instruction, lane)
        machine.scheduler.pc[active.lanes] = targets[which]

    return Control(run)


class CallStack:
    """Where each lane returns to."""

    def __init__(self, machine: Machine) -> None:
        self.depth = np.zeros(machine.lanes, np.int32)
        self.back = np.zeros((machine.lanes, DEEPEST_CALL), np.int32)


def stack(machine: Machine) -> CallStack:
    return machine.family_state("call stack", lambda: CallStack(machine))


@instruction("ret", "exit")
def ret(b: Binding) -> Step:
    b.ignore("uni")
    machine = b.machine
    is_exit = b.instruction.opcode == "exit"

    def run(active: Active, pc: int) -> None:
        if is_exit or "call stack" not in machine.state:
            machine.scheduler.end(active.lanes)
            return
        calls = stack(machine)
        depth = calls.depth[active.lanes]
        inside = active.lanes[depth > 0]
        calls.depth[inside] -= 1
        machine.scheduler.pc[inside] = calls.back[inside, calls.depth[inside]]
        if len(inside) < active.count:
            machine.scheduler.end(active.lanes[depth == 0])

    return Control(run)


@instruction("trap", "brkpt")
def trap(b: Binding) -> Step:
    def run(active: Active, pc: int) -> None:
        b.machine.stop(reports.ASSERTION, "the kernel executed trap", b.instruction, active.lanes[0])

    return Control(run)


@instruction("call")
def call(b: Binding) -> Step:
    b.ignore("uni")
    groups = [o for o in b.operands if isinstance(o, Group)]
    names = [o for o in b.operands if isinstance(o, Symbol)]
    if not names or not isinstance(names[0].target, str):
        b.fail("only direct calls are supported")
    name = names[0].name
    results = groups[0].items if isinstance(b.operands[0], Group) else ()
    arguments = groups[-1].items if len(groups) > (1 if results else 0) else ()
    function = b.machine.kernel.functions.get(name)
    if function is None or not function.has_body:
        return external(b, name, arguments, results)
    entry = b.machine.kernel.entries[name]
    machine = b.machine
    copies_in = list(zip([variable(b, a) for a in arguments], function.parameters, strict=True))
    # Results need no copy: the caller's variable takes the address of the callee's, both in local memory.
    for inner, outer in zip(function.results, [variable(b, r) for r in results], strict=True):
        machine.addresses[outer.key] = machine.addresses[inner.key]

    def run(active: Active, pc: int) -> None:
        calls = stack(machine)
        if (calls.depth[active.lanes] >= DEEPEST_CALL).any():
            machine.stop(reports.LIMIT, f"calls nest deeper than {DEEPEST_CALL}", b.instruction, active.lanes[0])
        for outer, inner in copies_in:
            copy_local(machine, active, machine.addresses[outer.key], machine.addresses[inner.key], inner.size or 0)
        calls.back[active.lanes, calls.depth[active.lanes]] = pc + 1
        calls.depth[active.lanes] += 1
        machine.scheduler.pc[active.lanes] = entry

    return Control(run)


def variable(b: Binding, operand: object) -> Variable:
    if not isinstance(operand, Symbol) or not isinstance(operand.target, Variable):
        b.fail(f"{operand} is not a .param variable")
    return operand.target


def copy_local(machine: Machine, active: Active, source: int, destination: int, size: int) -> None:
    local = machine.memory.local
    at = active.lanes[:, None] * local.stride + np.arange(size)
    local.data[at + destination - LOCAL_WINDOW] = local.data[at + source - LOCAL_WINDOW]
    local.state[at + destination - LOCAL_WINDOW] = local.state[at + source - LOCAL_WINDOW]


# Functions that the driver provides.


def external(b: Binding, name: str, arguments: tuple, results: tuple) -> Step:
    machine = b.machine
    where = [machine.addresses[variable(b, a).key] - LOCAL_WINDOW for a in arguments]

    def argument(lane: int, position: int, size: int) -> int:
        local = machine.memory.local
        start = lane * local.stride + where[position]
        return int.from_bytes(local.data[start : start + size].tobytes(), "little")

    def print_line(active: Active) -> None:
        for lane in active.lanes:
            form = read_text(machine, int(lane), argument(lane, 0, 8))
            machine.printed.append(format_text(machine, int(lane), form, argument(lane, 1, 8)))
        for result in results:
            at = machine.addresses[variable(b, result).key] - LOCAL_WINDOW
            machine.memory.local.data[active.lanes * machine.memory.local.stride + at] = 1
            offsets = active.lanes * machine.memory.local.stride + at
            machine.memory.local.set_state(offsets, 4, 3)

    def fail_assertion(active: Active) -> None:
        lane = int(active.lanes[0])
        message, file = (read_text(machine, lane, argument(lane, i, 8)) for i in (0, 1))
        machine.stop(reports.ASSERTION, f"assertion {message!r} failed at {file}:{argument(lane, 2, 4)}", b.instruction, lane)

    known = {"vprintf": print_line, "__assertfail": fail_assertion}
    if name not in known:
        b.fail(f"calls {name}, which has no body")
    return known[name]


def byte_at(machine: Machine, lane: int, address: int, size: int) -> bytes:
    space, where, _ = machine.memory.parts(None, np.array([address], np.int64))[0]
    arena = machine.memory.spaces[space]
    if space == "local":
        offset = lane * machine.memory.local.stride + int(where[0])
    elif space == "global":
        offset = int(where[0]) - (7 << 44)
    else:
        offset = int(where[0])
    return arena.data[offset : offset + size].tobytes()


def read_text(machine: Machine, lane: int, address: int) -> str:
    found = b""
    while len(found) < 4096 and (c := byte_at(machine, lane, address + len(found), 1)) not in (b"\0", b""):
        found += c
    return found.decode("utf-8", "replace")


def format_text(machine: Machine, lane: int, form: str, address: int) -> str:
    """printf: arguments lie in local memory, each at a multiple of its own size."""
    offset = 0

    def one(match: re.Match[str]) -> str:
        nonlocal offset
        flags, length, kind = match.group(1), match.group(2) or "", match.group(3)
        if kind == "%":
            return "%"
        size = 8 if kind in "fFeEgGsp" or "l" in length or "z" in length or "j" in length else 4
        offset = -(-offset // size) * size
        data = byte_at(machine, lane, address + offset, size)
        offset += size
        if kind in "fFeEgG":
            return f"%{flags}{kind}" % struct.unpack("<d", data)
        value = int.from_bytes(data, "little", signed=kind in "di")
        if kind == "s":
            return read_text(machine, lane, value)
        return (
            f"{value:#x}" if kind == "p" else f"%{flags}{'d' if kind == 'u' else kind}" % (chr(value) if kind == "c" else value)
        )

    return re.sub(r"%([-+ #0]*\d*(?:\.\d+)?)(hh|h|ll|l|z|j|t)?([diouxXfFeEgGcsp%])", one, form)
