"""Findings: what went wrong, where, in words a kernel author can act on."""

from __future__ import annotations

from dataclasses import dataclass, field

from .syntax import Instruction

OUT_OF_BOUNDS = "out-of-bounds"
MISALIGNED = "misaligned"
UNINITIALISED = "uninitialised"
RACE = "race"
IN_FLIGHT = "in-flight"  # touched while an asynchronous operation still reads or writes it, or pending at exit
PROXY_FENCE = "proxy-fence"
WGMMA_FENCE = "wgmma-fence"  # registers passed between threads and wgmma without wgmma.fence
BARRIER = "barrier"
MBARRIER = "mbarrier"
DIVERGENCE = "divergence"
DEADLOCK = "deadlock"
RESOURCES = "resources"  # more shared memory, registers or threads than the architecture has
TCGEN05_FENCE = "tcgen05-fence"
DESCRIPTOR = "descriptor"
FREED = "freed"  # shared memory of a CTA that has ended, or may have
ASSERTION = "assertion"
LIMIT = "limit"


@dataclass
class Report:
    """One finding. The same kind at the same instruction is kept once, with a count."""

    kind: str
    message: str
    kernel: str
    instruction: Instruction | None = None
    source: str | None = None  # file:line, and the places of its inlining
    thread: tuple[int, int, int] | None = None
    cta: tuple[int, int, int] | None = None
    address: int | None = None
    count: int = 1

    def __str__(self) -> str:
        where = [f"kernel {self.kernel}"]
        if self.instruction is not None:
            where.append(f"PTX {self.instruction}")
        if self.source:
            where.append(self.source)
        if self.thread is not None:
            where.append(f"thread {self.thread} of CTA {self.cta}")
        times = f" [{self.count} times]" if self.count > 1 else ""
        return f"{self.kind}: {self.message}{times}\n    at {'; '.join(where)}"


class KernelFault(Exception):
    """A launch that had findings. `reports` holds them."""

    def __init__(self, reports: list[Report]) -> None:
        self.reports = reports
        super().__init__("\n".join(str(r) for r in reports))


class Stop(Exception):
    """Execution cannot go on (deadlock, step limit): raised inside the emulator only, after the report was made."""


@dataclass
class ReportLog:
    """The findings of a launch."""

    kernel: str
    files: dict[int, str] = field(default_factory=dict)
    found: dict[tuple[str, int, str], Report] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        message: str,
        instruction: Instruction | None = None,
        thread: tuple[int, int, int] | None = None,
        cta: tuple[int, int, int] | None = None,
        address: int | None = None,
        detail: str = "",
        count: int = 1,
    ) -> None:
        """`detail` tells findings of one kind at one instruction apart: it is part of the key, not of the message."""
        key = (kind, instruction.index if instruction is not None else -1, detail)
        if key in self.found:
            self.found[key].count += count
            return
        source = None
        if instruction is not None and instruction.source is not None:
            places = [
                f"{self.files.get(file, f'file {file}')}:{line}" for file, line in (instruction.source, *instruction.callers)
            ]
            source = ", inlined at ".join(places)
        self.found[key] = Report(kind, message, self.kernel, instruction, source, thread, cta, address, count)

    @property
    def reports(self) -> list[Report]:
        return list(self.found.values())
