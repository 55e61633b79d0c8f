"""What ptxas makes of the package's kernels: registers and spills, SASS. For `make ptx`, `make sass` and the tests.

python tests/assembled.py ptx|sass OP TARGET [FILE]
"""

from __future__ import annotations

import hashlib
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
from ptx_emulator.compile import PTX_CACHE, cuda_ptx, nvcc, nvcc_version


def opcode(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


LARGEST_BLOCK = 1024  # threads, where a kernel does not say


@dataclass(frozen=True)
class Assembled:
    """One kernel for one target."""

    registers: int
    stack: int
    spilled: int
    static_shared: int
    largest_block: int
    sass: str
    warnings: tuple[str, ...] = ()  # of ptxas, about the whole file

    @property
    def listing(self) -> list[tuple[int, str]]:
        """(address, instruction) without padding and without what ptxas puts in place of it: predicated by false."""
        lines = re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?)\s*;", self.sass, re.MULTILINE)
        return [(int(at, 16), text) for at, text in lines if not re.match(r"NOP|@!U?PT ", text)]

    @property
    def instructions(self) -> list[str]:
        """Opcodes with their modifiers, in order."""
        return [opcode(text) for _, text in self.listing]

    def loop(self, pattern: str) -> list[str]:
        """Opcodes of the shortest loop (from the target of a backward branch to the branch) with one that matches."""
        lines, found = self.listing, []
        for at, text in lines:
            target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
            if target and int(target[1], 16) < at:
                body = [opcode(t) for a, t in lines if int(target[1], 16) <= a <= at]
                if any(re.match(pattern, code) for code in body):
                    found.append(body)
        return min(found, key=len)

    def count(self, pattern: str) -> int:
        return sum(n for code, n in Counter(self.instructions).items() if re.match(pattern, code))


MATRIX = re.compile(r"QGMMA|HGMMA|QMMA|HMMA|UTC\w*MMA")  # instructions of tensor cores


def main_loop(kernel: Assembled) -> Counter[str]:
    """The innermost loop with matrix instructions: opcodes without modifiers, and "total"."""
    body = kernel.loop(MATRIX.pattern)
    return Counter(code.split(".")[0] for code in body) + Counter(total=len(body))


def highest_register(sass: str) -> int:
    """How many registers the code names: with setmaxnreg, what ptxas reports is only what the kernel starts with."""
    return 1 + max(map(int, re.findall(r"\bR(\d+)\b", sass)))


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
    return assemble_ptx(cuda_ptx(ROOT / file, target, FLAGS, folders=[ROOT / "csrc"]), target)


def assemble_ptx(ptx: str, target: str) -> dict[str, Assembled]:
    """The kernels of a PTX text, whoever made it. Kept on disk by the text and nvcc's version."""
    blocks = {name: int(threads) for name, threads in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.(?:max|req)ntid (\d+)", ptx)}
    key = hashlib.sha256("\0".join([nvcc_version(), target, ptx]).encode()).hexdigest()[:24]
    cubin, report = PTX_CACHE / f"{key}.cubin", PTX_CACHE / f"{key}.txt"
    if not report.exists():
        PTX_CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=PTX_CACHE) as folder:
            source, made = Path(folder) / "kernels.ptx", Path(folder) / "kernels.cubin"
            source.write_text(ptx)
            command = [nvcc() or "nvcc", "-cubin", "-O3", f"-arch={target}", "-Xptxas", "-v", str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"ptxas failed for {target}:\n{done.stderr}")
            (Path(folder) / "report").write_text(done.stderr)
            made.rename(cubin)
            (Path(folder) / "report").rename(report)
    listing = subprocess.run([cuobjdump() or "cuobjdump", "-sass", str(cubin)], capture_output=True, text=True, check=True)
    sass = {part.split()[0]: part for part in listing.stdout.split("Function : ")[1:]}
    return dict(_resources(report.read_text(), sass, blocks))


def _resources(report: str, sass: dict[str, str], blocks: dict[str, int]) -> list[tuple[str, Assembled]]:
    """From what `ptxas -v` says of each entry function."""
    found = []
    warnings = tuple(line for line in report.splitlines() if "warning" in line or "(C75" in line)
    for part in report.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", part).groups()
        )
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        static_shared = int(shared[1]) if shared else 0
        found.append(
            (
                name,
                Assembled(registers, stack, stores + loads, static_shared, blocks.get(name, LARGEST_BLOCK), sass[name], warnings),
            )
        )
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
