"""Warp-wide exchange: shfl, vote, match, redux, elect, activemask."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import numerics as nx
from .. import reports
from ..binding import Binding, Collective, Step, instruction
from ..registers import TYPES, WARP, Active

LANE = np.arange(WARP)


def matrix(active: Active, values: Any, fill: Any) -> np.ndarray:
    """(warps, 32) values of the active lanes; `fill` where a lane is not active."""
    if isinstance(values, np.ndarray) and values.ndim:
        return active.by_warp(values[active.index], fill)
    return active.by_warp(np.full(active.count, values), fill)


def present(active: Active) -> np.ndarray:
    """(warps, 32) bool."""
    return active.by_warp(np.ones(active.count, bool), False)


def spread(active: Active, rows: np.ndarray) -> np.ndarray:
    """One value for each active lane from a (warps, 32) or (warps, 1) matrix."""
    rows = np.broadcast_to(rows, (len(active.warps), WARP))
    return rows.reshape(-1) if active.rows is None else rows[active.rows]


@instruction("shfl.sync", "shfl")
def shuffle(b: Binding) -> Step:
    kind = b.type()
    mode = b.required("up", "down", "bfly", "idx")
    destination, valid = b.pair(0, kind, TYPES["pred"])
    u32 = TYPES["u32"]
    source, lane, clamp = b.source(1, kind), b.source(2, u32), b.source(3, u32)
    members = b.source(4, u32) if len(b.operands) > 4 else np.uint32(0xFFFFFFFF)
    machine = b.machine

    def run(active: Active) -> None:
        values = matrix(active, source, 0)
        by, c = (matrix(active, v, 0).astype(np.int64) for v in (lane, clamp))
        bound, segment = c & 31, c >> 8 & 31
        last = (LANE & segment) | (bound & ~segment)
        by = by & 31
        if mode == "up":
            target = LANE - by
            inside = target >= last
        elif mode == "down":
            target = LANE + by
            inside = target <= last
        elif mode == "bfly":
            target = LANE ^ by
            inside = target <= last
        else:
            target = (LANE & segment) | (by & ~segment)
            inside = target <= last
        target = np.where(inside, target, LANE)
        here = present(active)
        absent = here & ~np.take_along_axis(here, target, axis=1)
        if absent.any():
            row, column = np.argwhere(absent)[0]
            message = f"shuffle reads lane {int(target[row, column])}, which does not take part"
            machine.report(reports.DIVERGENCE, message, b.instruction, int(active.warps[row]) * WARP + int(column))
        destination.put(spread(active, np.take_along_axis(values, target, axis=1)), active)
        if valid is not None:
            valid.put(spread(active, inside), active)

    return Collective(run, members)


@instruction("vote.sync", "vote")
def vote(b: Binding) -> Step:
    kind = b.type()
    mode = b.required("all", "any", "uni", "ballot")
    destination, predicate = b.destination(0, kind), b.predicate(1)
    members = b.source(2, TYPES["u32"]) if len(b.operands) > 2 else np.uint32(0xFFFFFFFF)

    def run(active: Active) -> None:
        here = present(active)
        held = matrix(active, predicate(), False) & here
        if mode == "ballot":
            result = (held.astype(np.uint32) << LANE.astype(np.uint32)).sum(axis=1, dtype=np.uint32)
        else:
            every, some = (held | ~here).all(axis=1), held.any(axis=1)
            result = {"all": every, "any": some, "uni": every | ~some}[mode]
        destination.put(spread(active, result[:, None]), active)

    return Collective(run, members)


@instruction("match.any.sync", "match.all.sync")
def match(b: Binding) -> Step:
    kind = b.type()
    every = b.instruction.modifiers[0] == "all"
    destination, valid = b.pair(0, TYPES["b32"], TYPES["pred"])
    source, members = b.source(1, kind), b.source(2, TYPES["u32"])
    bit = (np.uint32(1) << LANE.astype(np.uint32)).astype(np.uint32)

    def run(active: Active) -> None:
        here, values = present(active), matrix(active, source, 0)
        same = (values[:, :, None] == values[:, None, :]) & here[:, :, None] & here[:, None, :]
        result = np.where(same, bit, np.uint32(0)).sum(axis=2, dtype=np.uint32)
        if every:
            whole = np.where(here, bit, np.uint32(0)).sum(axis=1, dtype=np.uint32)[:, None]
            agreed = (same | ~here[:, None, :]).all(axis=2)
            result = np.where(agreed, whole, np.uint32(0))
            if valid is not None:
                valid.put(spread(active, agreed), active)
        destination.put(spread(active, result), active)

    return Collective(run, members)


@instruction("redux.sync")
def redux(b: Binding) -> Step:
    kind = b.type()
    operation = b.required("add", "min", "max", "and", "or", "xor")
    magnitude, propagate = b.flag("abs"), b.flag("NaN")
    destination, source, members = b.destination(0, kind), b.source(1, kind), b.source(2, TYPES["u32"])
    if kind.kind == "f" and (operation not in ("min", "max") or b.machine.arch < 100):
        b.fail("redux.f32 has min and max only, from sm_100 on")
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[operation]

    def floats(values: np.ndarray, here: np.ndarray) -> np.ndarray:
        values = np.abs(values) if magnitude else values
        ignored = -np.inf if operation == "max" else np.inf
        nan = np.isnan(values) & here
        extreme = function.reduce(np.where(here & ~nan, values, np.float32(ignored)), axis=1)
        bad = nan.any(axis=1) if propagate else (nan | ~here).all(axis=1)
        return np.where(bad, nx.NAN32, extreme)

    def run(active: Active) -> None:
        here, values = present(active), matrix(active, source, 0)
        if kind.kind == "f":
            result = floats(values, here)
        else:
            limits = np.iinfo(kind.dtype)
            neutral = {"min": limits.max, "max": limits.min, "and": -1 if kind.kind == "s" else limits.max}.get(operation, 0)
            result = function.reduce(np.where(here, values, kind.dtype.type(neutral)), axis=1)
        destination.put(spread(active, np.asarray(result)[:, None]), active)

    return Collective(run, members)


@instruction("elect.sync")
def elect(b: Binding) -> Step:
    """Any active lane may be elected: the lowest in lockstep, a random one otherwise."""
    destination, chosen = b.pair(0, TYPES["b32"], TYPES["pred"])
    members = b.source(1, TYPES["u32"])
    machine = b.machine

    def run(active: Active) -> None:
        here = present(active)
        if machine.policy.schedule == "random":
            leader = np.where(here, machine.rng.random(here.shape), -1.0).argmax(axis=1)
        else:
            leader = here.argmax(axis=1)
        destination.put(spread(active, leader.astype(np.uint32)[:, None]), active)
        if chosen is not None:
            chosen.put(spread(active, leader[:, None] == LANE), active)

    return Collective(run, members)


@instruction("activemask")
def activemask(b: Binding) -> Step:
    destination = b.destination(0, b.type())

    def run(active: Active) -> None:
        mask = (present(active).astype(np.uint32) << LANE.astype(np.uint32)).sum(axis=1, dtype=np.uint32)
        destination.put(spread(active, mask[:, None]), active)

    return run
