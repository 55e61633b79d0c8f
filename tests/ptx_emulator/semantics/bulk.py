"""cp.async.bulk, cp.reduce.async.bulk and cp.async.bulk.prefetch: strings of bytes between global and shared memory.

Addresses and sizes are multiples of 16. The groups that the stores to global memory belong to are in bulk_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import reports
from ..binding import Binding, Step, instruction
from ..registers import TYPES, WARP, Active
from .bulk_groups import CHUNK, GlobalRows, check_rows, deliver, multicast_places, send, shared_place, signal_place
from .bulk_reduce import OPERATIONS, combine_bytes

LARGEST_SIZE = 1 << 20  # the bytes an mbarrier can expect


@instruction("cp.async.bulk")
def copy(b: Binding) -> Step:
    """[dst], [src], size, [mbarrier] {, CTA mask} {, cache policy}; to global memory there is no mbarrier."""
    target = b.required("shared::cluster", "shared::cta", "global")
    source = b.required("global", "shared::cta")
    b.ignore("L2::cache_hint")
    if target == "global":
        b.required("bulk_group")
        return to_global(b, "bulk store", None, "u8")
    b.required("mbarrier::complete_tx::bytes")
    return from_global(b) if source == "global" else between_ctas(b, None, "u8")


@instruction("cp.reduce.async.bulk")
def reduce(b: Binding) -> Step:
    kind = b.left.pop()
    operation = b.required(*OPERATIONS)
    target = b.required("shared::cluster", "global")
    b.required("shared::cta")
    b.ignore("L2::cache_hint", "noftz")
    if kind not in TYPES:
        b.fail(f"unknown type .{kind}")
    if target == "global":
        b.required("bulk_group")
        return to_global(b, "bulk reduce", operation, kind)
    b.required("mbarrier::complete_tx::bytes")
    return between_ctas(b, operation, kind)


class Sizes:
    """The size operand."""

    def __init__(self, b: Binding, which: int) -> None:
        self.b, self.source = b, b.source(which, TYPES["u32"])

    def __call__(self, active: Active) -> np.ndarray:
        sizes = self.b.compact(self.source, active).astype(np.int64)
        bad = (sizes % CHUNK != 0) | (sizes >= LARGEST_SIZE)
        if bad.any():
            message = f"a bulk copy of {int(sizes[bad][0])} bytes: a multiple of {CHUNK} below 2**20 is needed"
            self.b.machine.stop(reports.MISALIGNED, message, self.b.instruction, active.lanes[int(np.argmax(bad))])
        return sizes


def global_place(b: Binding, lane: int, address: int, size: int, what: str) -> GlobalRows | None:
    """The bytes in global memory, None after a report."""
    machine = b.machine
    if address % CHUNK:
        message = f"a bulk copy of {size} bytes at global address {address:#x}, which is not a multiple of {CHUNK}"
        machine.report(reports.MISALIGNED, message, b.instruction, lane)
        return None
    one = Active.of_lanes(np.array([lane]), machine.lanes)
    _, offsets, good, _ = machine.memory.locate(b.instruction, what, "global", np.array([address]), size, one, CHUNK)
    if good is not None:
        return None
    rows = GlobalRows(offsets, size)
    return rows if check_rows(machine, b.instruction, lane, rows, what).all() else None


def from_global(b: Binding) -> Step:
    multicast = b.flag("multicast::cluster")
    target, source, sizes, barrier = b.address(0), b.address(1), Sizes(b, 2), b.address(3)
    mask = b.source(4, TYPES["u16"]) if multicast else None
    machine = b.machine

    def run(active: Active) -> None:
        columns = [target(active), source(active), sizes(active), barrier(active)]
        masks = b.compact(mask, active) if mask is not None else np.zeros(active.count, np.uint16)
        for lane, place, address, size, barrier_at, chosen in zip(active.lanes, *columns, masks, strict=True):
            rows = global_place(b, int(lane), int(address), int(size), "load")
            if rows is None or not size:
                continue
            for where, at in multicast_places(b, int(lane), int(place), int(barrier_at), int(chosen) if multicast else None):
                start = shared_place(b, int(lane), where, int(size), CHUNK)
                if start is not None:
                    offsets = start + np.arange(0, int(size), CHUNK)
                    fetch = reader(b, rows)
                    deliver(
                        machine, b.instruction, int(lane), "bulk load", offsets, fetch, signal_place(b, int(lane), at), int(size)
                    )

    return run


def reader(b: Binding, rows: GlobalRows) -> Callable[[np.ndarray], np.ndarray]:
    return lambda old: rows.data(b.machine).reshape(-1, CHUNK)


def to_global(b: Binding, engine: str, operation: str | None, kind: str) -> Step:
    target, source, sizes = b.address(0), b.address(1), Sizes(b, 2)
    machine = b.machine

    def put(index: np.ndarray, chunks: np.ndarray) -> None:
        data, new = machine.memory.global_space.data, chunks.reshape(index.shape)
        data[index] = new if operation is None else combine_bytes(operation, kind, data[index], new)

    def run(active: Active) -> None:
        for lane, address, place, size in zip(active.lanes, target(active), source(active), sizes(active), strict=True):
            rows = global_place(b, int(lane), int(address), int(size), "reduce" if operation else "store")
            start = shared_place(b, int(lane), int(place), int(size), CHUNK)
            if rows is not None and start is not None and size:
                offsets = start + np.arange(0, int(size), CHUNK)
                send(machine, b.instruction, int(lane), engine, offsets, rows, put, operation is not None)

    return run


def between_ctas(b: Binding, operation: str | None, kind: str) -> Step:
    """From the CTA's own shared memory to that of a CTA of the cluster, whose mbarrier is told."""
    target, source, sizes, barrier = b.address(0), b.address(1), Sizes(b, 2), b.address(3)
    machine = b.machine

    def run(active: Active) -> None:
        columns = [target(active), source(active), sizes(active), barrier(active)]
        for lane, place, start, size, signal in zip(active.lanes, *columns, strict=True):
            multicast_places(b, int(lane), int(place), int(signal), None)
            ends = [shared_place(b, int(lane), int(at), int(size), CHUNK) for at in (place, start)]
            if size and None not in ends:
                offsets = [end + np.arange(0, int(size), CHUNK) for end in ends if end is not None]
                one(int(lane), offsets[0], offsets[1], signal_place(b, int(lane), int(signal)), int(size))

    def one(lane: int, there: np.ndarray, here: np.ndarray, signal: int, size: int) -> None:
        sanitizer, chunks = machine.sanitizer, machine.memory.shared.data.reshape(-1, CHUNK)
        sanitizer.begin_async_read(b.instruction, here, CHUNK, sanitizer.row(lane // WARP), lane)

        def combine(old: np.ndarray) -> np.ndarray:
            new = chunks[here // CHUNK]
            return new if operation is None else combine_bytes(operation, kind, old, new)

        def done(agent: int) -> None:
            sanitizer.end_async_read(here, CHUNK, agent)

        deliver(machine, b.instruction, lane, "bulk load", there, combine, signal, size, operation is not None, done)

    return run


@instruction("cp.async.bulk.prefetch")
def prefetch(b: Binding) -> Step:
    """Moves nothing that a kernel sees."""
    b.required("L2")
    b.required("global")
    b.ignore("L2::cache_hint")
    b.address(0)
    sizes = Sizes(b, 1)

    def run(active: Active) -> None:
        sizes(active)

    return run
