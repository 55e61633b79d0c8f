"""The real launch path (mpkernels/triton_launch.py) without a GPU: a stub driver in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulated_triton
import pytest

if (WHY_NOT := emulated_triton.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

CASES = Path(__file__).parent / "triton_launch_cases.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
def test_launches(arch):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    run = subprocess.run(command, env={**os.environ, "TRITON_ARCH": str(arch)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:]
