"""A second opinion on races: sentryward, a static verifier of PTX. The emulator sees the schedules it runs; a proof covers all.

docs/decisions/0011-a-static-verifier-beside-the-emulator.md says why, docs/notes/2026-11-25-what-the-static-verifier-says.md of
which kernels it has anything to say.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ptx_emulator import Buffer

Argument = dict[str, Any]
SECONDS = 120  # for one kernel; the slowest here takes 5


def why_not() -> str | None:
    """Why nothing can be verified here, or None."""
    return None if importlib.util.find_spec("sentryward") else "needs sentryward: pip install 'mpkernels[verify]'"


@dataclass(frozen=True)
class Verdict:
    """result: race_free, potential_race, or why there is none: unsupported, invalid_input, timeout, tool_failure ..."""

    result: str
    diagnostics: Sequence[Mapping[str, Any]]
    races: Sequence[Mapping[str, Any]]

    def __str__(self) -> str:
        return "\n".join(
            [self.result, *(f"{d['code']}: {d.get('message', '')}" for d in self.diagnostics), *map(str, self.races)]
        )


@dataclass(frozen=True)
class Subject:
    """A kernel and its launch. params: the bytes of its one struct; arguments: what is known of others' arguments."""

    ptx: str
    entry: str
    grid: Sequence[int]
    block: Sequence[int]
    shared_bytes: int = 0
    params: bytes = b""
    arguments: tuple[Argument, ...] = ()

    def without_line(self, pattern: Callable[[str], bool], index: int) -> Subject:
        """The same kernel, its index-th line that matches left out."""
        lines = self.ptx.splitlines()
        at = [i for i, line in enumerate(lines) if pattern(line)][index]
        ptx = "\n".join([*lines[:at], *lines[at + 1 :]])
        return Subject(ptx, self.entry, self.grid, self.block, self.shared_bytes, self.params, self.arguments)


def verify(subject: Subject, assume: Sequence[str] = ()) -> Verdict:
    """What sentryward says.

    Pointers stay symbolic: distinct, of unknown content. Of a struct it is told the fields that it asks for, those on which
    control depends. assume: keys of its list of assumptions.
    """
    known: dict[int, Argument] = {}
    while True:
        report = _run(subject, [*subject.arguments, *known.values()], assume)
        asked = [
            each
            for diagnostic in report.get("diagnostics") or []
            if diagnostic["code"] == "control_parameter_value_missing"
            for each in diagnostic["details"]["required_parameters"]
        ]
        new = [each for each in asked if subject.params and each["offset"] not in known]
        if not new:
            return Verdict(report["result"], report.get("diagnostics") or [], report.get("races") or [])
        for offset, size in ((each["offset"], each["bytes"]) for each in new):
            value = int.from_bytes(subject.params[offset : offset + size], "little")
            known[offset] = {"parameter": 0, "offset": offset, "type": f"u{8 * size}", "value": value}


def _run(subject: Subject, arguments: Sequence[Argument], assume: Sequence[str]) -> dict[str, Any]:
    from sentryward.frontend.ptx_native import native_executable  # the public function takes no assumptions

    launch = {"grid_dim": [*subject.grid], "block_dim": [*subject.block], "cluster_dim": [1, 1, 1]}
    launch["dynamic_shared_bytes"] = subject.shared_bytes
    configuration = {"schema": "spverify.kernel-input/v1", "entry": subject.entry, "launch": launch, "arguments": [*arguments]}
    with tempfile.TemporaryDirectory() as folder:
        ptx, given = Path(folder) / "kernel.ptx", Path(folder) / "input.json"
        ptx.write_text(subject.ptx)
        given.write_text(json.dumps(configuration))
        command = [native_executable(), "--ptx", ptx, "--config", given, "--timeout-seconds", str(SECONDS), "--sync-threads", "1"]
        for each in assume:
            command += ["--assume", each]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"sentryward ended with {done.returncode}: {done.stderr}") from None


def scalar_arguments(values: Sequence[Any], types: Sequence[str]) -> tuple[Argument, ...]:
    """The arguments of a kernel, by their types in PTX ("u64", "f32"): numbers, and null pointers. Arrays stay symbolic."""
    known = []
    for i, (value, kind) in enumerate(zip(values, types, strict=True)):
        if value is None:
            known.append({"parameter": i, "type": "pointer", "value": None})
        elif not isinstance(value, Buffer):
            number = float(value) if isinstance(value, np.floating) else int(value)
            known.append({"parameter": i, "type": kind, "value": number})
    return tuple(known)
