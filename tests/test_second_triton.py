"""The Triton kernels with the newest Triton too, which is not the one that the installed torch asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECOND = ROOT / ".venv-second-triton"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SECOND.exists(), reason=f"no second Triton; `make second-triton` installs one into {SECOND.name}"),
]


def with_second(*command: str, **environment: str) -> str:
    paths = [str(SECOND), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **environment}
    run = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]
    return run.stdout


def run_tests(*pytest_args: str, **environment: str) -> None:
    assert " passed" in with_second("-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest_args, **environment)


def test_it_is_another_one():
    import triton

    second = with_second("-c", "import triton; print(triton.__version__)").strip()
    assert second != triton.__version__, "set SECOND_TRITON"


@pytest.mark.parametrize("target", ["sm_89", "sm_100"])
def test_compiles_to_what_was_meant(target):
    run_tests("tests/test_triton_kernels.py", "-k", f"{target} and not moved")


def test_launches():
    run_tests("tests/triton_launch_cases.py", TRITON_ARCH="90")


def test_the_last_program_of_each_grid_in_the_emulator():
    run_tests("tests/test_triton_offsets.py")


def test_interpreted():
    files = [f"tests/ops/test_{op}.py" for op in ("amax", "compute_scale", "update_loss_scale")]
    files.append("tests/ops/test_scaled_mm.py::test_every_pair_of_codes")
    run_tests(*files, "-k", "triton-interpreted", TRITON_INTERPRET="1")
