"""What is known of the CUDA kernels without a GPU, as a page: python tests/gpu_evidence.py writes docs/gpu-evidence.md.

Registers, spills and shared memory come from ptxas, what is moved and executed from the emulator's counters. An op takes part
with a file tests/evidence/<op>.py that has CASES, or a section of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import assembled
import emulated
from ptx_emulator import Policy, Result
from ptx_emulator.compile import nvcc_version
from torch import Tensor
from torch.utils._pytree import tree_map_only

PAGE = emulated.ROOT / "docs/gpu-evidence.md"
OPS = sorted(p.stem for p in (Path(__file__).parent / "evidence").glob("*.py"))
FILES = sorted(str(p.relative_to(emulated.ROOT)) for p in (emulated.ROOT / "csrc/ops").glob("*/cuda.cu"))
TARGETS = tuple(emulated.TARGETS)
# Of an SM; CUDA C++ Programming Guide, technical specifications. Registers are given to warps in units of 256.
REGISTERS, REGISTER_UNIT = 65536, 256
THREADS = {"sm_80": 2048, "sm_89": 1536, "sm_90a": 2048, "sm_100a": 2048, "sm_120a": 1536}
SHARED = {"sm_80": 164, "sm_89": 100, "sm_90a": 228, "sm_100a": 228, "sm_120a": 100}  # KB
SHARED_PER_BLOCK = 1 << 10  # what the system takes
OF_TRITON = "# Evidence for the Triton kernels"  # begins the page's other half, made by triton_evidence.py


def half(of_triton: bool) -> str:
    """What the page has of one half."""
    cuda, heading, triton = PAGE.read_text().partition(OF_TRITON) if PAGE.exists() else ("", "", "")
    return heading + triton if of_triton else cuda


@dataclass(frozen=True)
class Case:
    """A call of torch.ops.mpkernels_cuda.<op>, and the bytes that no kernel for it could do without, scalars left out.

    elements: 0 where there are only scalars; then they are counted, with a sector each.
    """

    op: str
    name: str
    args: tuple[Any, ...]
    elements: int
    compulsory: int
    largest_ratio: float = 1.01  # of the bytes moved to these


@dataclass(frozen=True)
class Counts:
    """What all launches of a case did. Sectors a request are those of 16-byte accesses, for which 16 is ideal.

    instructions: for each element; of all warps where there are only scalars.
    """

    kernels: str
    bytes_ratio: float
    load_sectors: float
    store_sectors: float
    narrow_requests: int
    conflicts: int
    instructions: float


def count(case: Case, target: str, in_place: bool = False) -> Counts:
    """Unless `in_place`, on copies: what a call leaves in its arguments may make the next one another."""
    args = case.args if in_place else tree_map_only(Tensor, Tensor.clone, case.args)
    device = emulated.EmulatedDevice(target, Policy())
    getattr(device, case.op)(*args)
    return summed(case, [each.kernel for each in device.launches if each.kernel], device.results)


def summed(case: Case, kernels: Sequence[str], results: Iterable[Result]) -> Counts:
    totals = {(what, wide): [0, 0] for what in ("load", "store") for wide in (False, True)}
    moved = conflicts = instructions = 0
    for result in results:
        counters = result.counters
        moved += 32 * (counters["global_load_sectors"] + counters["global_store_sectors"])
        conflicts += counters["shared_load_conflicts"] + counters["shared_store_conflicts"]
        instructions += counters.warp_instructions
        for instruction in counters.program:
            at = counters.at(instruction.index)
            for what in ("load", "store"):
                total = totals[what, ".v4." in instruction.name]
                total[0] += at.get(f"global_{what}_sectors", 0)
                total[1] += at.get(f"global_{what}_requests", 0)
    per_request = {what: totals[what, True][0] / max(totals[what, True][1], 1) for what in ("load", "store")}
    return Counts(
        ", ".join(f"`{kernel}`" for kernel in kernels),
        moved / case.compulsory,
        per_request["load"],
        per_request["store"],
        totals["load", False][1] + totals["store", False][1],
        conflicts,
        32 * instructions / case.elements if case.elements else instructions,
    )


def cases() -> list[Case]:
    return [case for op in OPS for case in getattr(importlib.import_module(f"evidence.{op}"), "CASES", [])]


def sections() -> list[str]:
    """What ops have to say for themselves."""
    modules = [importlib.import_module(f"evidence.{op}") for op in OPS]
    return [line for module in modules if hasattr(module, "section") for line in module.section()]


def occupancy(kernel: assembled.Assembled, threads: int, target: str, dynamic_shared: int = 0) -> float:
    """Resident threads of those an SM can have, from registers, threads and shared memory."""
    warp_registers = -(-kernel.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    blocks = min(REGISTERS // (warp_registers * threads // 32), THREADS[target] // threads, 24 if THREADS[target] == 1536 else 32)
    blocks = min(blocks, (SHARED[target] << 10) // (kernel.static_shared + dynamic_shared + SHARED_PER_BLOCK))
    return blocks * threads / THREADS[target]


def spread(values: list[float], digits: int) -> str:
    """One number if they agree, else the least and the greatest."""
    texts = [f"{v:.{digits}f}" for v in values]
    return texts[0] if len(set(texts)) == 1 else f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def static_table() -> list[str]:
    rows = [f"| kernel | threads | shared | {' | '.join(TARGETS)} |", "|" + "---|" * (3 + len(TARGETS))]
    for file in FILES:
        of_target = {target: assembled.assemble(file, target) for target in TARGETS}
        for name in sorted(of_target[TARGETS[0]]):
            kernels = {target: of_target[target][name] for target in TARGETS}
            first = kernels[TARGETS[0]]
            cells = []
            for target, kernel in kernels.items():
                cell = f"{kernel.registers}, {100 * occupancy(kernel, kernel.largest_block, target):.0f} %"
                cells.append(cell + (f", **{kernel.spilled} B spilled**" if kernel.spilled else ""))
            rows.append(f"| `{name}` | {first.largest_block} | {first.static_shared} | {' | '.join(cells)} |")
    return rows


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def counted_table() -> list[str]:
    return rows_of((case, [count(case, target) for target in TARGETS]) for case in cases() if case.elements)


def scalar_table() -> list[str]:
    rows = ["| op | case | kernels | bytes ratio | instructions |", "|" + "---|" * 5]
    for case in (case for case in cases() if not case.elements):
        counts = [count(case, target) for target in TARGETS]
        cells = [f"`{case.op}`", case.name, counts[0].kernels, spread([c.bytes_ratio for c in counts], 2)]
        rows.append(f"| {' | '.join(cells)} | {spread([c.instructions for c in counts], 0)} |")
    return rows


def rows_of(counted: Iterable[tuple[Case, Sequence[Counts]]]) -> list[str]:
    """counted: each case with its counts on every target."""
    head = ["op", "case", "kernels", "bytes ratio", "sectors/request, loads", "stores", "conflicts", "instructions/element"]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for case, counts in counted:
        cells = [f"`{case.op}`", case.name, counts[0].kernels, spread([c.bytes_ratio for c in counts], 2)]
        cells += [spread([c.load_sectors for c in counts], 1)]
        cells += [spread([c.store_sectors for c in counts], 1) if counts[0].store_sectors else "none"]
        cells += [spread([float(c.conflicts) for c in counts], 0), spread([c.instructions for c in counts], 1)]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def page() -> str:
    return "\n".join(
        [
            "# Evidence for the CUDA kernels",
            "",
            "Made by `make gpu-evidence`; a test fails if it is stale. Nothing here was measured on a GPU: registers and spills",
            f"are what ptxas says ({nvcc_version().strip()}), counts are the emulator's ([ptx-emulator](ptx-emulator.md)).",
            "Times are not known.",
            "",
            "## Resources",
            "",
            "Registers a thread and the share of an SM's threads that can be resident with them. No kernel has a stack.",
            "",
            *static_table(),
            "",
            *sections(),
            "",
            "## Counts",
            "",
            f"Per call, the same on {', '.join(TARGETS)} unless a range is given. *Bytes ratio*: 32-byte sectors moved,",
            "scalars and partial results included, over the bytes of the data. *Sectors/request*: of 16-byte accesses, 16 is",
            "ideal. *Conflicts*: passes over the banks of shared memory beyond the fewest possible. *Instructions*: of PTX, for",
            "each element of x.",
            "",
            *counted_table(),
            "",
            "## Scalars",
            "",
            "Ops on scalars: here these make the bytes that must move, a sector each; the instructions are those of all warps.",
            "",
            *scalar_table(),
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page() + half(of_triton=True))
    sys.exit(0)
