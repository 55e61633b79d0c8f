"""The ops' contract tests through Triton's interpreter, and that its repairs and checks are at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
OPS = sorted(p.parent.name for p in (ROOT / "mpkernels/ops").glob("*/triton.py"))
pytestmark = pytest.mark.slow


def interpreted(*pytest_args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest_args],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("op", OPS)
def test_the_contract_of(op):
    run = interpreted(f"tests/ops/test_{op}.py", "-k", "triton-interpreted")
    assert run.returncode == 0, run.stdout[-5000:]
    assert " passed" in run.stdout.splitlines()[-1]


def test_the_checks():
    run = interpreted("tests/triton_interpreter/faulty_kernels.py")
    assert run.returncode == 0, run.stdout[-5000:]
