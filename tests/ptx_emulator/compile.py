"""PTX from sources: nvcc for CUDA C++, Triton for Triton kernels. Neither needs a GPU."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .api import Kernel, Module, load


def nvcc() -> str | None:
    return shutil.which("nvcc")


@cache
def nvcc_version() -> str:
    return subprocess.run([nvcc() or "nvcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def cuda_ptx(file: Path, target: str, flags: Sequence[str] = (), cache_directory: Path | None = None) -> str:
    """The PTX of a .cu file for a target such as sm_90a. Cached by content of the file, target, flags and nvcc version."""
    command = ["-ptx", "-O3", "-std=c++17", "-lineinfo", f"-arch={target}", *flags]
    directory = cache_directory or Path(tempfile.gettempdir()) / "ptx_emulator"
    directory.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\0".join([nvcc_version(), *command, file.read_text()]).encode()).hexdigest()[:24]
    cached = directory / f"{file.stem}.{target}.{key}.ptx"
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            output = Path(scratch) / "out.ptx"
            done = subprocess.run([nvcc() or "nvcc", *command, str(file), "-o", str(output)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"nvcc failed on {file.name} for {target}:\n{done.stderr}")
            output.rename(cached)
    return cached.read_text()


def compile_cuda(file: Path, target: str, flags: Sequence[str] = (), cache_directory: Path | None = None) -> Module:
    """Compile a .cu file and load it. Headers it includes are not part of the cache key: pass a fresh cache_directory."""
    return load(cuda_ptx(Path(file), target, flags, cache_directory))


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
