"""Compiled CPU kernel: csrc/ops/amax/cpu.cpp."""

from __future__ import annotations

from torch import Tensor

from ... import native

TARGETS = ("default", "avx2", "avx512")
_kernel = native.cpu_kernel("amax")


def why_not(x: Tensor) -> str | None:
    if not x.is_cpu:
        return f"x is on {x.device}, not on the CPU"
    return native.cpu_missing


def run(amax: Tensor, x: Tensor) -> None:
    _kernel(x.contiguous(), amax)
