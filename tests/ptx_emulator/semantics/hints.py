"""Instructions that change when things happen, not what: griddepcontrol, nanosleep, pmevent."""

from __future__ import annotations

from ..binding import Binding, Step, instruction
from ..registers import TYPES


@instruction("griddepcontrol")
def griddepcontrol(b: Binding) -> Step:
    """One grid runs at a time: the grids it depends on have ended."""
    b.required("launch_dependents", "wait")
    return lambda active: None


@instruction("nanosleep")
def nanosleep(b: Binding) -> Step:
    b.source(0, b.type())
    return lambda active: None


@instruction("pmevent")
def pmevent(b: Binding) -> Step:
    b.flag("mask")
    b.source(0, TYPES["u32"])
    return lambda active: None
