"""What ptxas makes of the package's kernels: registers and spills, SASS. For `make ptx`, `make sass` and the tests.

python tests/assembled.py ptx|sass OP TARGET [FILE]
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emulated import FLAGS, ROOT
from ptx_emulator.compile import cuda_ptx, nvcc


@dataclass(frozen=True)
class Assembled:
    """One kernel for one target."""

    registers: int
    stack: int
    spilled: int
    static_shared: int
    largest_block: int
    sass: str

    @property
    def instructions(self) -> list[str]:
        """Opcodes with their modifiers, in order, without padding."""
        lines = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.*?);", self.sass, re.MULTILINE)
        codes = [re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] for line in lines]
        return [code for code in codes if code != "NOP"]

    def count(self, pattern: str) -> int:
        return sum(n for code, n in Counter(self.instructions).items() if re.match(pattern, code))


def cuobjdump() -> str | None:
    """The disassembler: on the path, or the copy that comes with Triton."""
    spec = importlib.util.find_spec("triton")
    packaged = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else Path("/nonexistent")
    return shutil.which("cuobjdump") or (str(packaged) if packaged.exists() else None)


def why_not() -> str | None:
    """Why nothing can be disassembled here, or None."""
    if nvcc() is None:
        return "nvcc is not on the path"
    return None if cuobjdump() else "cuobjdump is neither on the path nor in an installed Triton"


@cache
def assemble(file: str, target: str) -> dict[str, Assembled]:
    """The kernels of a .cu file of the package, by name."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        ptx = cuda_ptx(ROOT / file, target, FLAGS, folders=[ROOT / "csrc"])
        blocks = {name: int(threads) for name, threads in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)}
        command = [
            nvcc() or "nvcc",
            "-cubin",
            "-O3",
            "-std=c++20",
            f"-arch={target}",
            "-Xptxas",
            "-v",
            *FLAGS,
            f"-I{ROOT / 'csrc'}",
        ]
        done = subprocess.run([*command, str(ROOT / file), "-o", str(cubin)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc failed on {file} for {target}:\n{done.stderr}")
        listing = subprocess.run([cuobjdump() or "cuobjdump", "-sass", str(cubin)], capture_output=True, text=True, check=True)
    sass = {part.split()[0]: part for part in listing.stdout.split("Function : ")[1:]}
    return dict(_resources(done.stderr, sass, blocks))


def _resources(report: str, sass: dict[str, str], blocks: dict[str, int]) -> list[tuple[str, Assembled]]:
    """From what `ptxas -v` says of each entry function."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", part).groups()
        )  # type: ignore[union-attr]
        registers = int(re.search(r"Used (\d+) registers", part)[1])  # type: ignore[index]
        shared = re.search(r"(\d+) bytes smem", part)
        static_shared = int(shared[1]) if shared else 0
        found.append((name, Assembled(registers, stack, stores + loads, static_shared, blocks[name], sass[name])))
    return found


def main() -> int:
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in ("ptx", "sass"):
        print(__doc__, file=sys.stderr)
        return 1
    what, op, target = sys.argv[1:4]
    folder = ROOT / "csrc/ops" / op
    for file in [folder / sys.argv[4]] if len(sys.argv) == 5 else sorted(folder.glob("*.cu")):
        print(f"// {file.relative_to(ROOT)}, {target}")
        if what == "ptx":
            print(cuda_ptx(file, target, FLAGS, folders=[ROOT / "csrc"]))
            continue
        for name, kernel in assemble(str(file.relative_to(ROOT)), target).items():
            print(f"// {name}: {kernel.registers} registers, {kernel.spilled} bytes spilled, {kernel.static_shared} bytes shared")
            print(kernel.sass)
    return 0


if __name__ == "__main__":
    sys.exit(main())
