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

import torch
import triton

from mpkernels.triton_launch import DeviceLauncher, Target

CASES = Path(__file__).parent / "triton_launch_cases.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
def test_launches(arch):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    run = subprocess.run(command, env={**os.environ, "TRITON_ARCH": str(arch)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:]


def test_an_old_triton_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.4.0")
    device, launcher = torch.device("cuda"), DeviceLauncher()
    launcher.targets[device] = Target("cuda", 90, 132)
    assert launcher.why_not(device) == "Triton 3.4.0 is installed; the kernels need 3.5 or later"
    monkeypatch.setattr(triton, "__version__", "3.10.0+git1")
    assert launcher.why_not(device) is None
