"""What is in a PTX file, and whether the emulator understands all of it.

python -m tests.ptx_emulator FILE.ptx [--list]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from .api import load
from .syntax import PTXError


def main() -> int:
    parser = argparse.ArgumentParser(prog="ptx_emulator", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--list", action="store_true", help="list each kernel's parameters, memory and opcodes")
    arguments = parser.parse_args()
    try:
        module = load(arguments.file.read_text())
    except PTXError as problem:
        print(problem, file=sys.stderr)
        return 1
    for kernel in module.kernels.values():
        program = kernel.program
        print(f"{kernel.name}: {program.target}, {len(program.instructions)} instructions")
        if not arguments.list:
            continue
        if program.entry.required_block:
            print("  block {} x {} x {}".format(*program.entry.required_block))
        if program.entry.cluster:
            print("  cluster {} x {} x {}".format(*program.entry.cluster))
        for variable, offset in program.parameters:
            print(f"  parameter {variable.name}: .{variable.type}, {variable.size} bytes at {offset}")
        for variable in program.shared + program.dynamic:
            print(f"  shared {variable.name}: {variable.size or 'dynamic'} bytes, aligned to {variable.align}")
        for name, count in sorted(Counter(i.name for i in program.instructions).items()):
            print(f"  {count:5} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
