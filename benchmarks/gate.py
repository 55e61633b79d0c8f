"""Tests first: a backend that gives wrong results is not measured."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = {"fp8_linear": "tests/test_linear.py", "optimizer_step": "tests/test_optim.py"}


def command(name: str, backends: list[str]) -> list[str]:
    """The quick tests of an op with these backends, or of a layer."""
    told = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-m", "not slow"]
    workers = min(8, (os.cpu_count() or 1) // 2)  # a first run compiles Triton's kernels, one at a time in each process
    if workers > 1 and importlib.util.find_spec("xdist") is not None:
        told += ["-n", str(workers)]
    if name in LAYERS:
        return [*told, LAYERS[name]]
    return [*told, f"tests/ops/test_{name}.py", "-k", f"({' or '.join(backends)}) and not emulated and not interpreted"]


def red(name: str, backends: list[str]) -> str | None:
    """None if the tests are green, else the end of what they print. No test at all is not green."""
    done = subprocess.run(command(name, backends), cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]
