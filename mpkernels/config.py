"""Every MPKERNELS_* environment variable: its name, default and meaning. Nothing else in the package reads the environment.

This file imports only the standard library, so that setup.py can load it by path before torch or the package exist.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One environment variable. `phase` says when it is read: "run" (at import) or "build" (by setup.py)."""

    name: str
    default: str
    phase: str
    meaning: str

    def read(self) -> str:
        """The value now: the environment's if set and not empty, else the default."""
        return os.environ.get(self.name) or self.default


CPU_CAPABILITY = Variable(
    "MPKERNELS_CPU_CAPABILITY",
    "auto",
    "run",
    "Highest instruction set the CPU kernels may use: auto, default, avx2, avx512 or avx512_bf16. "
    "A level the CPU lacks is refused at import.",
)
CACHE_DIR = Variable(
    "MPKERNELS_CACHE_DIR",
    "~/.cache/mpkernels",
    "run",
    "Directory of what mpkernels.tune measured.",
)
CUDA = Variable(
    "MPKERNELS_CUDA",
    "auto",
    "build",
    "Whether to build the CUDA library: auto (if nvcc is found), 0 (never) or 1 (fail without nvcc).",
)
CUDA_ARCHS = Variable(
    "MPKERNELS_CUDA_ARCHS",
    "auto",
    "build",
    "nvcc targets, separated by ';', spelt as nvcc spells them: '80;90a'. auto: every target the kernels ship for.",
)

VARIABLES = (CPU_CAPABILITY, CACHE_DIR, CUDA, CUDA_ARCHS)
