"""One binary for several torch versions: the built libraries load and train under another torch than they were built with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-second/bin/python"


@pytest.mark.skipif(not PYTHON.exists(), reason="no second torch; `make second-torch` installs one into .venv-second")
def test_built_library_runs_under_a_second_torch():
    version = subprocess.run([PYTHON, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() != torch.__version__, "the second torch is the first one: set SECOND_TORCH"
    run = subprocess.run([PYTHON, "-m", "tests.second_torch"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"torch {version.stdout.strip()}: loss" in run.stdout
