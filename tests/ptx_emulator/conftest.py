"""Fixtures of the emulator's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .api import Module
from .compile import compile_cuda, nvcc

collect_ignore_glob = ["kernels/triton_*.py"]  # not importable without Triton
KERNELS = Path(__file__).parent / "kernels"


@pytest.fixture
def cuda(request: pytest.FixtureRequest) -> Callable[..., Module]:
    """cuda("gemm_sm89", "sm_89") compiles kernels/gemm_sm89.cu, or skips where there is no nvcc."""
    if nvcc() is None:
        pytest.skip("nvcc is not on the path")
    directory = Path(str(request.config.cache.mkdir("ptx_emulator")))
    return lambda name, target, *flags: compile_cuda(KERNELS / f"{name}.cu", target, flags, directory)
