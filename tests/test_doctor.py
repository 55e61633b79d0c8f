"""python -m mpkernels.doctor, and that the generated table in README.md is the current one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpkernels import config, doctor
from mpkernels.dispatch import OPS
from mpkernels.formats import FORMATS

ROOT = Path(__file__).parents[1]


def test_prints_every_op_format_and_variable():
    run = subprocess.run([sys.executable, "-m", "mpkernels.doctor"], capture_output=True, text=True, check=True)
    for name in [*OPS, *(f.name for f in FORMATS), *(v.name for v in config.VARIABLES), "torch", "no device"]:
        assert name in run.stdout, f"{name} is missing from:\n{run.stdout}"


def test_readme_table_is_current():
    text = (ROOT / "README.md").read_text()
    assert doctor.rewrite_tables(text) == text, "run `make tables`"


def test_write_tables_changes_only_the_marked_part(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- doctor -->\nold\n<!-- /doctor -->\nafter\n")
    subprocess.run([sys.executable, "-m", "mpkernels.doctor", "--write-tables", str(file)], check=True)
    text = file.read_text()
    assert text.startswith("before\n<!-- doctor -->\n\n| op ")
    assert text.endswith("<!-- /doctor -->\nafter\n")
    assert "old" not in text


def test_a_file_without_the_mark_is_refused():
    with pytest.raises(ValueError, match="no <!-- doctor -->"):
        doctor.rewrite_tables("nothing here")
