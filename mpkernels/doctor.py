"""What runs here, and why: python -m mpkernels.doctor.

Prints versions and build facts, the op x backend table with each backend's own reason for this machine, the formats and the
environment variables. `--write-tables README.md` rewrites the generated table in a Markdown file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import sys
from pathlib import Path

import torch

from . import __version__, config, native
from .dispatch import BACKENDS, OPS, Op
from .formats import FORMATS


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first row its head, padded so that it reads well as plain text too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> list[str]:
    """Versions, devices and how the compiled libraries were built, one fact a line."""
    lines = [
        f"mpkernels {__version__}, torch {torch.__version__}, triton {version_of('triton')}, "
        f"python {platform.python_version()}, {platform.system()} {platform.machine()}"
    ]
    if native.cpu_missing is None:
        lines.append(
            f"_C:    {torch.ops.mpkernels_cpu.build_info()}; {torch.get_num_threads()} threads, {native.cpu_capability()}"
        )
    else:
        lines.append(f"_C:    {native.cpu_missing}")
    lines.append(f"_cuda: {native.cuda_missing or torch.ops.mpkernels_cuda.build_info()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            lines.append(f"cuda:{i}: {torch.cuda.get_device_name(i)}, compute capability {major}.{minor}")
    else:
        lines.append("cuda:  no device")
    return lines


def support(op: Op) -> list[str]:
    """For each backend: the targets it has code for, wherever this runs, or why there is none."""
    cells = []
    for backend in BACKENDS:
        module = op.modules[backend]
        if isinstance(module, str) and op.parts is not None:
            cells.append("by its parts")
            continue
        cells.append(module if isinstance(module, str) else ", ".join(getattr(module, "TARGETS", ("any device",))))
    return cells


def support_table() -> str:
    """Op x backend x target, the same on every machine that has triton."""
    return table([["op", *BACKENDS]] + [[f"`{name}`", *support(op)] for name, op in sorted(OPS.items())])


def here(device: torch.device) -> str:
    """Op x backend on a device: yes, or the backend's reason, asked with the op's own example arguments."""
    rows = [["op", *BACKENDS]]
    for name, op in sorted(OPS.items()):
        reasons = op.explain(*op.bind(*op.example(device)))
        rows.append([name, *("yes" if reasons[backend] is None else str(reasons[backend]) for backend in BACKENDS)])
    return table(rows)


def formats_table() -> str:
    rows = [["format", "bits", "max", "smallest normal", "smallest subnormal", "epsilon", "has_inf"]]
    for f in FORMATS:
        numbers = [f"{value:.6g}" for value in (f.max, f.smallest_normal, f.smallest_subnormal, f.epsilon)]
        rows.append([f.name, f"1+{f.exponent_bits}+{f.mantissa_bits}", *numbers, "yes" if f.has_inf else "no"])
    return table(rows)


def environment_table() -> str:
    rows = [["variable", "now", "read at", "meaning"]]
    return table(rows + [[v.name, v.read(), v.phase, v.meaning] for v in config.VARIABLES])


def rewrite_tables(text: str) -> str:
    """The text with the part between `<!-- doctor -->` and `<!-- /doctor -->` made anew."""
    marked = re.compile(r"(<!-- doctor -->\n).*?(<!-- /doctor -->)", re.DOTALL)
    if not marked.search(text):
        raise ValueError("no <!-- doctor --> ... <!-- /doctor --> part found")
    return marked.sub(lambda m: f"{m[1]}\n{support_table()}\n\n{m[2]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mpkernels.doctor", description=__doc__)
    parser.add_argument(
        "--write-tables", metavar="FILE", type=Path, help="rewrite the generated table in a Markdown file, print nothing"
    )
    file = parser.parse_args().write_tables
    if file is not None:
        file.write_text(rewrite_tables(file.read_text()))
        return 0
    print("\n".join(versions()))
    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        print(f"\nWhat runs on {device}:\n\n{here(device)}")
    print(f"\nFormats:\n\n{formats_table()}\n\nEnvironment:\n\n{environment_table()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
