"""Loads the compiled libraries, or says why they are not there.

`_C` holds the CPU kernels, `_cuda` the CUDA kernels. Both are libtorch-stable-ABI libraries without Python symbols; loading
one registers its operators as torch.ops.mpkernels_cpu / torch.ops.mpkernels_cuda, which only the backend modules call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import config

_HERE = Path(__file__).parent
OLDEST_CAPABILITY = (8, 0)  # what cuda.cu is compiled for begins at sm_80
CUDA_TARGETS = ("sm_80 and later",)  # of an op whose kernels are in a cuda.cu
CPU_CAPABILITIES = ("default", "avx2", "avx512", "avx512_bf16")


def _load(library: str, cure: str) -> str | None:
    """None once loaded, else the sentence why not."""
    path = _HERE / f"{library}.abi3.so"
    if not path.exists():
        return f"the compiled library {path.name} is missing ({cure})"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"the compiled library {path.name} does not load: {error}"
    return None


@functools.cache
def _capability_missing(index: int | None) -> str | None:
    found = torch.cuda.get_device_capability(index)
    if found >= OLDEST_CAPABILITY:
        return None
    return "the GPU's compute capability {}.{} is below {}.{}".format(*found, *OLDEST_CAPABILITY)


@functools.cache
def _architecture(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def _missing_kernel(*_args: object) -> None:
    raise RuntimeError(cpu_missing)  # a backend that has not asked why_not


def cpu_kernel(name: str) -> Callable[..., Any]:
    """A compiled operator of the CPU library, resolved once: its lookup by name would cost as much as the call."""
    return _missing_kernel if cpu_missing is not None else getattr(torch.ops.mpkernels_cpu, name).default


def cuda_architecture(tensor: torch.Tensor) -> int:
    """Of the device of a CUDA tensor, as in sm_<architecture>."""
    return _architecture(tensor.device.index)


def cuda_why_not(name: str, tensor: torch.Tensor) -> str | None:
    """Why the CUDA kernels cannot run where this argument is; None if they can."""
    if not tensor.is_cuda:
        return f"{name} is on {tensor.device}, not on a CUDA device"
    return cuda_missing or _capability_missing(tensor.device.index)


def set_cpu_capability(level: str) -> str:
    """Limit the CPU kernels to an instruction set from now on; returns the one in force before.

    Args:
        level: "auto" (the best this CPU has), "default", "avx2", "avx512" or "avx512_bf16".

    Raises:
        ValueError: no such level, or this CPU lacks it.
        RuntimeError: the compiled library is missing.
    """
    if cpu_missing is not None:
        raise RuntimeError(cpu_missing)
    best = int(torch.ops.mpkernels_cpu.detected_capability())
    if level != "auto" and level not in CPU_CAPABILITIES:
        raise ValueError(f"CPU capability must be auto, {', '.join(CPU_CAPABILITIES)}, got {level!r}")
    index = best if level == "auto" else CPU_CAPABILITIES.index(level)
    if index > best:
        raise ValueError(f"this CPU has {CPU_CAPABILITIES[best]}, not {level!r}")
    return CPU_CAPABILITIES[torch.ops.mpkernels_cpu.set_capability(index)]


def cpu_capability() -> str | None:
    """The instruction set the CPU kernels use now, or None without the compiled library."""
    return None if cpu_missing is not None else CPU_CAPABILITIES[torch.ops.mpkernels_cpu.capability()]


cpu_missing = _load("_C", "build it with a C++ compiler: pip install -e . --no-build-isolation")
cuda_missing = (
    "this torch is a CPU build" if torch.version.cuda is None else _load("_cuda", "it was built without nvcc; see docs/build.md")
)
cuda = torch.ops.mpkernels_cuda  # what cuda.py files call; tests put the emulator here
if cpu_missing is None:
    set_cpu_capability(config.CPU_CAPABILITY.read())
