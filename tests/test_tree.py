"""The layout and naming rules of ARCHITECTURE.md and CONTRIBUTING.md, as tests: a newcomer can trust what the tree shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import mpkernels  # noqa: F401  # registers the ops
from mpkernels import config, dispatch
from mpkernels.dispatch import BACKENDS

ROOT = Path(__file__).parents[1]
OPS_OF_PARTS = {name for name, op in dispatch.OPS.items() if op.parts is not None}
OPS = sorted(p.name for p in (ROOT / "mpkernels/ops").iterdir() if p.is_dir() and not p.name.startswith("_"))
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SOURCES = [f for f in TRACKED if f.endswith((".py", ".cpp", ".h", ".cu", ".cuh"))]
LONGEST_FILE = 600
BINDINGS = ("/torch.cpp", "/cuda_torch.cpp")
each_op = pytest.mark.parametrize("op", OPS)


def matches(pattern: str, files: list[str]) -> list[str]:
    """file:line of every match."""
    found = []
    for file in files:
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{file}:{number}: {line.strip()}")
    return found


def package(*suffixes: str) -> list[str]:
    return [f for f in SOURCES if f.startswith(("mpkernels/", "csrc/")) and f.endswith(suffixes)]


@each_op
def test_op_folder_holds_a_reference_and_only_known_backends(op):
    names = {p.stem for p in (ROOT / "mpkernels/ops" / op).glob("*.py")}
    assert ("reference" in names) != (op in OPS_OF_PARTS)  # which are their own definition
    assert names <= {"__init__", *BACKENDS}


@each_op
@pytest.mark.parametrize("file", ["tests/ops/test_{}.py", "benchmarks/ops/bench_{}.py", "docs/ops/{}.md"])
def test_op_has_its_file_in_every_tree(op, file):
    assert (ROOT / file.format(op)).is_file()


@each_op
def test_native_op_folder_has_a_binding_and_a_contract_header_for_its_kernels(op):
    """An op that is made of other ops' kernels (quantize_current) has a binding only."""
    if (ROOT / "mpkernels/ops" / op / "cpu.py").exists():
        names = {p.name for p in (ROOT / "csrc/ops" / op).iterdir()}
        assert "torch.cpp" in names
        assert (f"{op}.h" in names) == ("cpu.cpp" in names)


@each_op
def test_cuda_backend_has_kernels_a_binding_and_a_header_with_the_plan(op):
    """A file of kernels is named after its nvcc target, or cuda.cu for all."""
    folder = ROOT / "csrc/ops" / op
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    kernels = {n for n in names if n.endswith(".cu")}
    assert all(re.fullmatch(r"cuda\.cu|sm\d+[af]?\.cu", n) for n in kernels), kernels
    has_backend = (ROOT / "mpkernels/ops" / op / "cuda.py").exists()
    assert has_backend == ("cuda_torch.cpp" in names)
    assert not kernels or {"cuda_torch.cpp", f"{op}_cuda.h"} <= names


@each_op
def test_cuda_kernels_for_every_target_have_evidence(op):
    if (ROOT / "csrc/ops" / op / "cuda.cu").exists():
        assert (ROOT / f"tests/evidence/{op}.py").is_file(), "docs/gpu-evidence.md would leave the op out"


def test_only_the_launcher_launches():
    launches = matches(r"<<<|cudaLaunch\w*\(|cudaMemsetAsync\(", package(".cpp", ".h", ".cu", ".cuh"))
    assert [m for m in launches if not m.startswith("csrc/host/launch.cpp:")] == []


def test_no_native_op_without_a_contract():
    assert {p.name for p in (ROOT / "csrc/ops").iterdir()} <= set(OPS)


def test_only_bindings_include_torch():
    kernels = [f for f in package(".cpp", ".h", ".cu", ".cuh") if not f.startswith("csrc/host/") and not f.endswith(BINDINGS)]
    assert matches(r"#include <(torch|ATen|c10)", kernels) == []


def test_bindings_use_the_stable_abi_only():
    bindings = [f for f in package(".cpp", ".h") if f.startswith("csrc/host/") or f.endswith(BINDINGS)]
    assert matches(r"#include <(ATen|c10|torch/(?!csrc/stable/|headeronly/|csrc/inductor/aoti_torch/))", bindings) == []


def test_environment_is_read_in_config_only():
    assert (
        matches(r"os\.environ|getenv", [f for f in package(".py", ".cpp", ".h", ".cu", ".cuh") if f != "mpkernels/config.py"])
        == []
    )
    assert all(v.name.startswith("MPKERNELS_") for v in config.VARIABLES)


def test_devices_are_looked_for_in_few_places():
    allowed = ("mpkernels/native.py", "mpkernels/doctor.py")
    assert matches(r"cuda\.is_available", [f for f in package(".py") if f not in allowed]) == []


def test_package_imports_neither_tests_nor_benchmarks():
    assert matches(r"^\s*(from|import) (tests|benchmarks|examples)\b", package(".py")) == []


def test_no_bare_scale():
    assert matches(r"(?<![\w.\"'])scale\s*[:=](?!=)", package(".py", ".cpp", ".h", ".cu", ".cuh")) == []


def test_no_catch_all_names():
    banned = {"utils", "util", "misc", "common", "helpers"}
    stems = {Path(f).stem for f in SOURCES} | {part for f in SOURCES for part in Path(f).parent.parts}
    assert not stems & banned
    assert [f for f in SOURCES if re.search(r"_v\d+\.|_new\.|_old\.", f)] == []


def test_files_stay_short():
    long = {f: n for f in SOURCES if (n := len((ROOT / f).read_text().splitlines())) > LONGEST_FILE}
    assert long == {}


def test_no_leftovers():
    todo = "TO" + "DO|FIX" + "ME|XX" + "X"
    assert matches(rf"\b({todo})\b", [f for f in SOURCES if f != "tests/test_tree.py"]) == []


def test_every_decision_has_the_four_headings():
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name), path.name
        for heading in ("Status", "Context", "Decision", "Consequences"):
            assert re.search(rf"^(## {heading}|{heading}:)", path.read_text(), re.MULTILINE), f"{path.name} lacks {heading}"


def test_linter_pins_agree():
    pins = re.findall(r"(ruff|clang-format)==([\d.]+)", (ROOT / "pyproject.toml").read_text())
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert pins
    for tool, version in pins:
        assert set(re.findall(rf"{tool}==([\d.]+)", hooks)) == {version}
