"""tensormap.replace, tensormap.cp_fenceproxy and fence.proxy.tensormap: tensor maps made on the device.

A map that threads changed in global memory is seen by TMA only after a release (part of cp_fenceproxy, or
fence.proxy.tensormap::generic.release by the thread that changed it) and an acquire by the thread that uses it or by one
that it comes after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import reports
from ..binding import Binding, Step, instruction
from ..machine import Machine
from ..registers import WARP, Active
from ..syntax import Instruction
from ..tensor_map import BYTES
from .ldmatrix import whole_warps

# Byte offsets; see tensor_map.py. Those of the second kind take an ordinal, of so many bytes each.
SINGLE = {"global_address": 0, "swizzle_atomicity": 80, "elemtype": 108, "rank": 112, "swizzle_mode": 116}
SINGLE |= {"fill_mode": 120, "interleave_layout": 124}
INDEXED = {"global_stride": (8, 8, 4), "global_dim": (40, 4, 5), "box_dim": (60, 4, 5), "element_stride": (88, 4, 5)}
MAP_ALIGNMENT = 64
COPY_ALIGNMENT = 128


@dataclass
class Change:
    """The last change of a map in global memory, and the fences since: (step, warp) of those who acquired it."""

    instruction: Instruction
    step: int
    warp: int
    released: bool
    acquired: list[tuple[int, int]]


def changes(machine: Machine) -> dict[int, Change]:
    """By arena offset."""
    return machine.family_state("tensor maps", dict)


def changed(machine: Machine, instr: Instruction, offset: int, warp: int, released: bool) -> None:
    changes(machine)[offset] = Change(instr, machine.step, warp, released, [])


def check_acquired(machine: Machine, instr: Instruction, lane: int, offset: int) -> None:
    """TMA is about to use the map at an offset of global memory."""
    change = changes(machine).get(offset)
    if change is None:
        return
    place = machine.memory.place(machine.memory.global_space, offset, BYTES)
    what = f"uses the tensor map at {place}, which PTX line {change.instruction.line} ({change.instruction.text}) changed, "
    if not change.released:
        what += "without a fence.proxy.tensormap::generic.release by the thread that changed it"
        machine.report(reports.PROXY_FENCE, what, instr, lane)
    elif not any(comes_after(machine, lane // WARP, warp, step) for step, warp in change.acquired):
        what += "without a fence.proxy.tensormap::generic.acquire of it in between"
        machine.report(reports.PROXY_FENCE, what, instr, lane)


def comes_after(machine: Machine, warp: int, other: int, step: int) -> bool:
    sanitizer, per_cluster = machine.sanitizer, machine.sanitizer.home_agents
    if warp == other:
        return True
    same_cluster = warp // per_cluster == other // per_cluster
    return same_cluster and bool(sanitizer.clock[warp, sanitizer.agent_of_warp[other]] >= step)


@instruction("tensormap.replace")
def replace(b: Binding) -> Step:
    """[map], value or [map], ordinal, value"""
    b.required("tile")
    name = b.required(*SINGLE, *INDEXED)
    space = b.space()
    b.required("b1024")
    kind = b.type()
    address, machine, instr = b.address(0), b.machine, b.instruction
    value = b.source(-1, kind)
    if name in SINGLE:
        at = SINGLE[name]
    else:
        base, size, count = INDEXED[name]
        ordinal = b.constant(1)
        if not 0 <= ordinal < count:
            b.fail(f".{name} {ordinal}: 0 to {count - 1} exist")
        at = base + size * ordinal

    def run(active: Active) -> None:
        addresses = address(active)
        rows = np.ascontiguousarray(b.compact(value, active).astype(kind.dtype)).view(np.uint8).reshape(active.count, -1)
        for where, _, _ in machine.memory.parts(space, addresses):
            if where not in ("global", "shared"):
                machine.stop(reports.DESCRIPTOR, f"tensormap.replace of a map in {where} memory", instr, active.lanes[0])
        crooked = (addresses & (MAP_ALIGNMENT - 1)) != 0
        if crooked.any():
            message = f"a tensor map at {int(addresses[crooked][0]):#x}, which is not a multiple of {MAP_ALIGNMENT}"
            machine.stop(reports.MISALIGNED, message, instr, active.lanes[int(np.argmax(crooked))])
        machine.memory.store_rows(instr, space, addresses + at, rows, active)
        for where, inside, which in machine.memory.parts(space, addresses):
            if where == "global":
                lanes = active.lanes if which is None else active.lanes[which]
                part = Active.of_lanes(lanes, machine.lanes)
                _, offsets, _, _ = machine.memory.locate(instr, "tensor map", where, inside, BYTES, part, MAP_ALIGNMENT)
                for lane, offset in zip(lanes, offsets, strict=True):
                    changed(machine, instr, int(offset), int(lane) // WARP, False)

    return run


@instruction("tensormap.cp_fenceproxy")
def copy_fence(b: Binding) -> Step:
    """[dst in global], [src in shared], 128: one copy for each warp, and a release."""
    b.required("global")
    b.required("shared::cta")
    b.required("tensormap::generic")
    b.required("release")
    b.ignore("cta", "cluster", "gpu", "sys", "sync", "aligned")
    if b.constant(2) != BYTES:
        b.fail(f"{BYTES} bytes are copied, not {b.constant(2)}")
    target, source, machine, instr = b.address(0), b.address(1), b.machine, b.instruction

    def run(active: Active) -> None:
        whole_warps(b, active)
        one = active.subset(np.r_[True, active.warp_of[1:] != active.warp_of[:-1]])
        rows = machine.memory.load_rows(instr, "shared", source(one), BYTES, one, COPY_ALIGNMENT)
        addresses = target(one)
        machine.memory.store_rows(instr, "global", addresses, rows, one, COPY_ALIGNMENT)
        _, offsets, good, _ = machine.memory.locate(instr, "tensor map", "global", addresses, BYTES, one, COPY_ALIGNMENT)
        if good is None:
            for warp, offset in zip(one.warps, offsets, strict=True):
                changed(machine, instr, int(offset), int(warp), True)

    return run


@instruction("fence.proxy.tensormap::generic")
def fence(b: Binding) -> Step:
    """.release.scope, or .acquire.scope [map], 128"""
    acquires = b.required("acquire", "release") == "acquire"
    b.ignore("cta", "cluster", "gpu", "sys")
    machine, instr = b.machine, b.instruction

    def release(active: Active) -> None:
        for change in changes(machine).values():
            if change.warp in active.warps:
                change.released = True

    if not acquires:
        return release
    address = b.address(0)
    if b.constant(1) != BYTES:
        b.fail(f"a tensor map has {BYTES} bytes, not {b.constant(1)}")

    def acquire(active: Active) -> None:
        for where, inside, which in machine.memory.parts(None, address(active)):
            part = active if which is None else active.subset(which)
            if where == "param":
                continue  # the host wrote it
            _, offsets, _, _ = machine.memory.locate(instr, "tensor map", where, inside, BYTES, part, MAP_ALIGNMENT)
            for warp, offset in {(int(w), int(o)) for w, o in zip(part.warp_of, offsets, strict=True)}:
                if where == "global" and offset in changes(machine):
                    changes(machine)[offset].acquired.append((machine.step, warp))

    return acquire
