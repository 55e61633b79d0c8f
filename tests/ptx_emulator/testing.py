"""Small PTX programs for the emulator's own tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from .api import Result, launch, load
from .registers import TYPES

REGISTER_TYPES = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}


def entry(body: str, parameters: str, target: str = "sm_100a", name: str = "kernel", header: str = "") -> str:
    """A PTX file with one kernel."""
    return f".version 9.0\n.target {target}\n.address_size 64\n{header}\n.visible .entry {name}({parameters})\n{{\n{body}\n}}\n"


def run_lanes(
    instruction: str,
    outputs: str | list[str],
    *inputs: tuple[str, np.ndarray],
    target: str = "sm_100a",
    setup: str = "",
    **how: Any,
) -> Any:
    """Run one instruction (or a few) with one thread for each element and return its results.

    instruction: uses %o0, %o1, ... (outputs) and %i0, %i1, ... (inputs), e.g. "add.f32 %o0, %i0, %i1;".
    outputs: the type of each; "pred" comes back as 0 and 1. inputs: (type, array); predicates come from u32 arrays.
    """
    kinds = [outputs] if isinstance(outputs, str) else outputs
    count = len(inputs[0][1]) if inputs else 32
    lines, arrays = [".reg .b64 %base, %at;", ".reg .b32 %thread, %cta, %size, %flag;", setup], []
    lines += [
        "mov.u32 %thread, %tid.x;",
        "mov.u32 %cta, %ctaid.x;",
        "mov.u32 %size, %ntid.x;",
        "mad.lo.s32 %thread, %cta, %size, %thread;",
    ]
    for i, (kind, array) in enumerate(inputs):
        width = 4 if kind == "pred" else TYPES[kind].size
        lines.append(f".reg .{'pred' if kind == 'pred' else REGISTER_TYPES[width]} %i{i};")
        lines += [f"ld.param.u64 %base, [p{i}];", f"mad.wide.s32 %at, %thread, {width}, %base;"]
        if kind == "pred":
            lines += ["ld.global.u32 %flag, [%at];", f"setp.ne.s32 %i{i}, %flag, 0;"]
        else:
            lines.append(f"ld.global.b{8 * width} %i{i}, [%at];")
        arrays.append(np.ascontiguousarray(array))
    for i, kind in enumerate(kinds):
        width = 4 if kind == "pred" else TYPES[kind].size
        lines.append(f".reg .{'pred' if kind == 'pred' else REGISTER_TYPES[width]} %o{i};")
    lines.append(instruction)
    results = []
    for i, kind in enumerate(kinds):
        width = 4 if kind == "pred" else TYPES[kind].size
        results.append(np.zeros(count, np.uint32 if kind == "pred" else TYPES[kind].dtype))
        lines += [f"ld.param.u64 %base, [p{len(inputs) + i}];", f"mad.wide.s32 %at, %thread, {width}, %base;"]
        if kind == "pred":
            lines += [f"selp.u32 %flag, 1, 0, %o{i};", "st.global.u32 [%at], %flag;"]
        else:
            lines.append(f"st.global.b{8 * width} [%at], %o{i};")
    lines.append("ret;")
    parameters = ", ".join(f".param .u64 p{i}" for i in range(len(arrays) + len(results)))
    kernel = load(entry("\n".join(lines), parameters, target))["kernel"]
    block = next(n for n in range(256, 0, -1) if count % n == 0)
    launch(kernel, count // block, block, [*arrays, *results], **how)
    return results[0] if isinstance(outputs, str) else results


def run_text(
    body: str, parameters: str, args: list[Any], block: int = 32, grid: int = 1, target: str = "sm_100a", **how: Any
) -> Result:
    """Launch a kernel given by its body."""
    header = how.pop("header", "")
    return launch(load(entry(body, parameters, target, header=header))["kernel"], grid, block, args, **how)
