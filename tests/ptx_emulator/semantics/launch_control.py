"""clusterlaunchcontrol: a running CTA takes over the work of a cluster that has not been launched, which then never is.

The 16 bytes of a response are opaque on hardware. Here: 1 if a cluster was taken, and the index of its first CTA.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from .. import reports
from ..binding import Binding, Step, instruction
from ..registers import TYPES, UNSIGNED, Active
from .bulk_groups import CHUNK, deliver, multicast_places, shared_place, signal_place

AXES = ("x", "y", "z")


def answer(response: np.ndarray, old: np.ndarray) -> np.ndarray:
    return response.view(np.uint8)


@instruction("clusterlaunchcontrol.try_cancel")
def try_cancel(b: Binding) -> Step:
    """[response], [mbarrier]"""
    b.required("async")
    b.ignore("shared::cta", "b128")
    b.required("mbarrier::complete_tx::bytes")
    everyone = b.flag("multicast::cluster::all")
    target, barrier, machine = b.address(0), b.address(1), b.machine

    def run(active: Active) -> None:
        for lane, place, signal in zip(active.lanes, target(active), barrier(active), strict=True):
            response = np.zeros((1, 4), np.uint32)
            if len(machine.waiting):
                first, machine.waiting = int(machine.waiting[0]), machine.waiting[machine.cluster_size :]
                response[0] = 1, *machine.index_of(first)
            mask = (1 << machine.cluster_size) - 1 if everyone else None
            for where, at in multicast_places(b, int(lane), int(place), int(signal), mask):
                start = shared_place(b, int(lane), where, CHUNK, CHUNK)
                if start is not None:
                    at_barrier = signal_place(b, int(lane), at)
                    deliver(
                        machine,
                        b.instruction,
                        int(lane),
                        "launch control",
                        np.array([start]),
                        partial(answer, response),
                        at_barrier,
                        CHUNK,
                    )

    return run


@instruction("clusterlaunchcontrol.query_cancel")
def query_cancel(b: Binding) -> Step:
    """is_canceled p, response; get_first_ctaid {x, y, z, _} or one of them, response"""
    what = b.required("is_canceled", "get_first_ctaid", *(f"get_first_ctaid::{axis}" for axis in AXES))
    b.ignore("pred", "v4", "b32", "b128")
    words = b.machine.registers.view(b.operands[1].key, TYPES["b128"]).view(UNSIGNED[4])  # type: ignore[union-attr]
    if what == "is_canceled":
        taken = b.destination(0, TYPES["pred"])
        return lambda active: taken.put(words[active.index, 0] != 0, active)
    destinations = b.destinations(0, TYPES["b32"])
    first = AXES.index(what[-1]) if "::" in what else 0

    def run(active: Active) -> None:
        failed = words[active.index, 0] == 0
        if failed.any():
            message = "the first CTA of a cluster is asked for, but the response says that none was taken (is_canceled is false)"
            b.machine.report(reports.ASSERTION, message, b.instruction, active.lanes[int(np.argmax(failed))])
        for i, destination in enumerate(destinations[:3]):
            destination.put(words[active.index, 1 + first + i], active)

    return run
