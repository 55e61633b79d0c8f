"""setup.py: nvcc is found where the docs say, and what is built carries no Python, runs on any torch and makes one wheel."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import emulated
import pytest
import setuptools
import torch

from mpkernels import native

ROOT = Path(__file__).parents[1]
SECOND_PYTHON = ROOT / ".venv-second/bin/python"


@pytest.fixture
def build(monkeypatch):
    """setup.py's functions, without running setup()."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.chdir(ROOT)
    return runpy.run_path(str(ROOT / "setup.py"))


def fake_nvcc(folder: Path, root: str) -> Path:
    """An nvcc that answers --dryrun with its toolkit's root, as the real one does, and --version."""
    folder.mkdir(parents=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "#\\$ TOP={root}" >&2\necho "Cuda compilation tools, release 12.6, V12.6.77"\n')
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    return nvcc


@pytest.fixture
def no_nvcc(monkeypatch, tmp_path):
    """An environment in which no nvcc is to be found, with a home for fake ones."""
    for variable in ("NVCC", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", os.fspath(tmp_path / "bin"))
    return tmp_path


def test_nvcc_is_found_by_variable_home_and_path_in_this_order(build, no_nvcc, monkeypatch):
    on_path = fake_nvcc(no_nvcc / "bin", "/toolkit/path")
    assert build["find_nvcc"]() == (str(on_path), "/toolkit/path")
    in_home = fake_nvcc(no_nvcc / "home/bin", "/toolkit/home")
    monkeypatch.setenv("CUDA_HOME", os.fspath(no_nvcc / "home"))
    assert build["find_nvcc"]() == (str(in_home), "/toolkit/home")
    named = fake_nvcc(no_nvcc / "named", "/toolkit/named")
    monkeypatch.setenv("NVCC", str(named))
    assert build["find_nvcc"]() == (str(named), "/toolkit/named")


def test_nvcc_is_found_in_pips_packages(build, no_nvcc, monkeypatch):
    in_package = fake_nvcc(no_nvcc / "nvidia/cu13/bin", "/toolkit/pip")
    monkeypatch.setattr(sys, "path", [os.fspath(no_nvcc)])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert build["find_nvcc"]() == (str(in_package), "/toolkit/pip")


def test_a_broken_nvcc_is_passed_over(build, no_nvcc, monkeypatch):
    broken = no_nvcc / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("NVCC", str(broken))
    on_path = fake_nvcc(no_nvcc / "bin", "/toolkit/path")
    assert build["find_nvcc"]() == (str(on_path), "/toolkit/path")


@pytest.mark.parametrize(
    ("release", "targets"),
    [
        ((12, 6), ["80", "86", "89", "90a"]),
        ((12, 8), ["80", "86", "89", "90a", "100a", "120a"]),
        ((13, 0), ["80", "86", "89", "90a", "100f", "120f"]),
    ],
)
def test_targets_are_those_the_nvcc_knows(build, release, targets):
    assert build["cuda_targets"](release) == targets


def test_targets_can_be_chosen(build, monkeypatch):
    monkeypatch.setenv("MPKERNELS_CUDA_ARCHS", "80;90a")
    assert build["cuda_targets"]((13, 0)) == ["80", "90a"]


@pytest.mark.parametrize(
    ("file", "wanted", "targets"),
    [
        ("cuda.cu", ["80", "90a"], ["80", "90a"]),
        ("sm89.cu", ["80", "89"], ["89"]),
        ("sm90a.cu", ["80"], ["90a"]),  # its launcher is linked, so it is compiled
        ("sm100f.cu", ["80", "100a"], ["100a"]),
        ("sm100f.cu", ["80", "100f"], ["100f"]),
        ("sm80.cu", ["80", "90a"], ["80"]),
    ],
)
def test_a_kernel_files_name_is_its_target(build, file, wanted, targets):
    assert build["targets_of"](f"csrc/ops/op/{file}", wanted) == targets


def test_later_gpus_get_ptx_without_a_suffix(build):
    flags = build["gencode"](["80", "120f"], ptx=True)
    assert flags == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120f,code=sm_120f",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def test_kernels_are_emulated_as_they_are_built(build):
    """Macros and the language version that decide what a kernel is."""
    if build["find_nvcc"]() is None:
        pytest.skip("nvcc was not found")
    tools = build["BuildExt"].tools(build["BuildExt"].__new__(build["BuildExt"]), cuda=True)
    command = tools[0][".cu"]
    decisive = {f for f in command if f.startswith(("-D", "-O", "-std"))}
    assert decisive - {f"-DTORCH_TARGET_VERSION={build['OLDEST_TORCH']}"} == {"-O3", "-std=c++20", *emulated.FLAGS}


def test_cuda_library_is_left_out_or_insisted_on(build, no_nvcc, monkeypatch):
    monkeypatch.setitem(build["extensions"].__globals__, "find_nvcc", lambda: None)
    assert [e.name for e in build["extensions"]()] == ["mpkernels._C"]
    monkeypatch.setenv("MPKERNELS_CUDA", "1")
    with pytest.raises(SystemExit, match="MPKERNELS_CUDA=1, but no nvcc was found"):
        build["extensions"]()
    monkeypatch.setenv("MPKERNELS_CUDA", "yes")
    with pytest.raises(SystemExit, match="MPKERNELS_CUDA must be auto, 0 or 1, got 'yes'"):
        build["extensions"]()


def libraries() -> list[Path]:
    return sorted((ROOT / "mpkernels").glob("*.abi3.so"))


@pytest.mark.parametrize("library", libraries(), ids=lambda p: p.name)
def test_library_has_no_python_and_no_unstable_torch_symbols(library):
    symbols = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    undefined = [line.split()[-1] for line in symbols.splitlines()]
    assert [s for s in undefined if s.startswith(("Py", "_Py"))] == []
    assert [s for s in undefined if s.startswith(("cuda", "__cuda"))] == []  # the CUDA runtime is linked statically
    # C++ names of at::, c10:: and torch:: change between versions; the stable ABI is C: torch_..., aoti_torch_...
    assert [s for s in undefined if s.startswith(("_ZN2at", "_ZN3c10", "_ZNK2at", "_ZNK3c10", "_ZN5torch", "_ZNK5torch"))] == []


def test_cuda_library_loads_without_a_gpu_where_nvcc_built_it():
    if not (ROOT / "mpkernels/_cuda.abi3.so").exists():
        pytest.skip("the CUDA library was not built: no nvcc")
    if torch.version.cuda is None:
        pytest.skip("this torch is a CPU build")
    assert native.cuda_missing is None
    assert "targets sm_80" in torch.ops.mpkernels_cuda.build_info()


@pytest.mark.slow
def test_wheel_is_abi3_and_runs_where_it_is_installed(tmp_path):
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    environment = {**os.environ, "MPKERNELS_CUDA": "0"}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path / "dist", source]
    subprocess.run(command, check=True, env=environment)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.startswith("mpkernels-")
    assert "-cp310-abi3-linux_" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"mpkernels/_C.abi3.so", "mpkernels/py.typed", "mpkernels/ops/scaled_mm/cpu.py", "mpkernels/optim/adamw.py"} <= set(
        names
    )
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "examples", "csrc"))]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import mpkernels, sys; assert mpkernels.__file__.startswith(sys.argv[1]); import tests.second_torch as t; t.main()"
    for python in {Path(sys.executable), *([SECOND_PYTHON] if SECOND_PYTHON.exists() else [])}:
        path = os.pathsep.join([os.fspath(tmp_path / "site"), os.fspath(source)])
        run = subprocess.run(
            [python, "-c", code, os.fspath(tmp_path / "site")],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
