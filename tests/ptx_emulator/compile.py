"""PTX from sources: nvcc for CUDA C++, Triton for Triton kernels. Neither needs a GPU."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .api import Kernel, Module, load

PTX_CACHE = Path(tempfile.gettempdir()) / "ptx_emulator"  # what nvcc made, by the content of what it made it of


def nvcc() -> str | None:
    return shutil.which("nvcc")


@cache
def nvcc_version() -> str:
    return subprocess.run([nvcc() or "nvcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def with_includes(file: Path, folders: Sequence[Path]) -> list[Path]:
    """The file and all that it includes in quotes, directly or not, of what is found beside the includer or in `folders`."""
    found, left = [file], [file]
    while left:
        includer = left.pop()
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', includer.read_text(), re.MULTILINE):
            path = next((p for f in (includer.parent, *folders) if (p := f / name).is_file()), None)
            if path is not None and path not in found:
                found.append(path)
                left.append(path)
    return found


def cuda_ptx(
    file: Path, target: str, flags: Sequence[str] = (), cache_directory: Path | None = None, folders: Sequence[Path] = ()
) -> str:
    """The PTX of a .cu file for a target such as sm_90a.

    Cached by target, flags, nvcc version and the content of the file and of what it includes, from `folders` too (nvcc's -I).
    """
    command = ["-ptx", "-O3", "-std=c++20", "-lineinfo", f"-arch={target}", *flags]
    directory = cache_directory or PTX_CACHE
    directory.mkdir(parents=True, exist_ok=True)
    sources = [path.read_text() for path in with_includes(file, folders)]
    key = hashlib.sha256("\0".join([nvcc_version(), *command, *sources]).encode()).hexdigest()[:24]
    cached = directory / f"{file.stem}.{target}.{key}.ptx"
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            output = Path(scratch) / "out.ptx"
            command = [nvcc() or "nvcc", *command, *(f"-I{f}" for f in folders), str(file), "-o", str(output)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"nvcc failed on {file.name} for {target}:\n{done.stderr}")
            output.rename(cached)
    return cached.read_text()


def compile_cuda(
    file: Path, target: str, flags: Sequence[str] = (), cache_directory: Path | None = None, folders: Sequence[Path] = ()
) -> Module:
    """Compile a .cu file and load it; arguments as `cuda_ptx`."""
    return load(cuda_ptx(Path(file), target, flags, cache_directory, folders))


@dataclass
class TritonKernel:
    """A compiled Triton kernel and what its launch needs."""

    kernel: Kernel
    ptx: str
    metadata: Any

    @property
    def shared_bytes(self) -> int:
        return int(self.metadata.shared)

    @property
    def block(self) -> int:
        return 32 * int(self.metadata.num_warps)

    @property
    def scratch(self) -> tuple[None, ...]:
        """The trailing pointers (global scratch, profiler scratch) that every Triton kernel takes."""
        return (None, None)


def compile_triton(
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    target: str | int,
    multiples_of_16: Sequence[str] = (),
    **options: Any,
) -> TritonKernel:
    """Compile a @triton.jit function for sm_<target>.

    signature: argument name -> Triton type ("*fp32", "i32", "fp32", ...) of the arguments that are not in `constants`.
    multiples_of_16: pointers and integers that Triton may take to be divisible by 16, as it finds out by itself in a real
    launch: vector accesses need it. options: num_warps, num_stages, ...
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    number = int("".join(c for c in str(target) if c.isdigit()))
    names = list(function.arg_names)
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in multiples_of_16}
    source = ASTSource(function, types, {(names.index(n),): v for n, v in constants.items()}, attributes)
    compiled = triton.compile(source, GPUTarget("cuda", number, 32), options=options)
    ptx = compiled.asm["ptx"]
    module = load(ptx)
    return TritonKernel(next(iter(module.kernels.values())), ptx, compiled.metadata)
