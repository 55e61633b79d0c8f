"""Builds the compiled libraries. Both are libtorch-stable-ABI shared libraries that do not touch Python's C API:

  mpkernels/_C.abi3.so      CPU kernels (always)          needs g++
  mpkernels/_cuda.abi3.so   CUDA kernels (if nvcc found)  needs nvcc and g++, neither a GPU nor a CUDA build of torch

torch.utils.cpp_extension is not used: its headers cost a minute a file, it needs a CUDA torch to build CUDA code, and what it
builds runs with one torch version only. See docs/build.md and docs/decisions/0003-stable-abi-build.md.

Environment: MPKERNELS_CUDA and MPKERNELS_CUDA_ARCHS (mpkernels/config.py), NVCC, CUDA_HOME, CXX, MAX_JOBS, DEBUG=1.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = "0x020a000000000000"  # 2.10: the first with every stable-ABI feature used here
OBJECTS = Path("build/obj")  # a fixed place: setuptools' temporary folder would defeat incremental editable builds
# After the objects: the linker takes from a static library what it has been found to lack so far.
STATIC_LIBRARIES = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
# Same bits on every instruction set (no contraction); g++ vectorises loops with sqrt or comparisons only with the other two.
SIMD_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]


def load_config():
    """mpkernels/config.py by path: importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("mpkernels_config", ROOT / "mpkernels/config.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


CONFIG = load_config()


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")  # importing it would cost 2 s and may print CUDA warnings
    if spec is None:
        raise SystemExit("mpkernels: torch is needed to build: pip install 'torch>=2.10'")
    return Path(spec.submodule_search_locations[0])


def nvcc_candidates() -> list[str | None]:
    candidates = [os.environ.get("NVCC")]
    candidates += [os.path.join(os.environ[v], "bin", "nvcc") for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    candidates.append(shutil.which("nvcc"))
    spec = importlib.util.find_spec("nvidia")  # pip install "cuda-toolkit[nvcc,cccl,cudart]"
    for folder in spec.submodule_search_locations if spec else []:
        candidates += sorted(map(str, Path(folder).glob("cu*/bin/nvcc")), reverse=True)
    candidates.append("/usr/local/cuda/bin/nvcc")
    return candidates


def find_nvcc() -> tuple[str, str] | None:
    """(nvcc, toolkit root), or None. nvcc on PATH may be a wrapper outside its toolkit, so the root is asked of nvcc itself."""
    for nvcc in nvcc_candidates():
        if nvcc and os.access(nvcc, os.X_OK):
            out = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
            root = re.search(r"^#\$ TOP=(.*)$", out, re.MULTILINE)
            if root:
                return nvcc, os.path.realpath(root.group(1).strip())
    return None


def nvcc_release(nvcc: str) -> tuple[int, int]:
    found = re.search(r"release (\d+)\.(\d+)", subprocess.check_output([nvcc, "--version"], text=True))
    return int(found.group(1)), int(found.group(2))


def cuda_targets(release: tuple[int, int]) -> list[str]:
    wanted = CONFIG.CUDA_ARCHS.read()
    if wanted != "auto":
        return [t for t in re.split(r"[;, ]+", wanted) if t]
    blackwell = ["100f", "120f"] if release >= (12, 9) else ["100a", "120a"] if release >= (12, 8) else []
    return ["80", "86", "89", "90a", *blackwell]


def targets_of(source: str, targets: list[str]) -> list[str]:
    """What a .cu file is compiled for: cuda.cu for all targets, sm90a.cu for sm_90a, whatever else is wanted (its launcher is
    linked in any case). An nvcc before 12.9 has no family targets: sm100f.cu is then compiled for 100a.
    """
    own = re.fullmatch(r"sm(\d+)([af]?)", Path(source).stem)
    if own is None:
        return targets
    number, suffix = own.groups()
    return [next((t for t in targets if t.rstrip("af") == number and (suffix or t == number)), number + suffix)]


def gencode(targets: list[str], *, ptx: bool) -> list[str]:
    """Flags of nvcc for the targets, and for PTX of the newest one without its suffix, which later GPUs can compile."""
    flags = [f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets]
    if ptx:
        newest = max(int(t.rstrip("af")) for t in targets)
        flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return flags


class BuildExt(build_ext):
    """g++ and nvcc as subprocesses, one object per source, rebuilt only when its command or a file it includes changed."""

    def get_export_symbols(self, ext):
        return []  # there is no PyInit function to export

    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        objects = OBJECTS / ext.name
        objects.mkdir(parents=True, exist_ok=True)
        cuda = ext.name.endswith("._cuda")
        compilers, link = self.tools(cuda=cuda)
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            compiled = list(pool.map(lambda source: self.compile(source, objects, compilers), ext.sources))
        newest = max(os.path.getmtime(o) for o in compiled)
        command = [*link, *map(str, compiled), "-o", str(output), *(STATIC_LIBRARIES if cuda else [])]
        stamp = objects / "link.cmd"
        if not (output.exists() and os.path.getmtime(output) >= newest and self.same_command(stamp, command)):
            self.run_command_line(command)
            stamp.write_text(" ".join(command))

    def tools(self, *, cuda: bool) -> tuple[dict[str, list[str]], list[str]]:
        """(compile command by suffix, link command up to the objects). Links come first: --no-as-needed keeps them."""
        torch, cxx, debug = torch_folder(), os.environ.get("CXX", "g++"), os.environ.get("DEBUG") == "1"
        common = [f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}", f"-I{torch / 'include'}", "-Icsrc", "-std=c++20"]
        common.append("-O0" if debug else "-O3")
        host = [f"-fmacro-prefix-map={torch}/include/=", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
        host += ["-g"] if debug else []
        compilers = {".cpp": [cxx, *common, *host, *SIMD_FLAGS, "-Wall", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]}
        link = [cxx, "-shared", f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed"]
        if cuda:
            nvcc, root = find_nvcc()
            release = nvcc_release(nvcc)
            targets = cuda_targets(release)
            build = f"nvcc {release[0]}.{release[1]}, targets {' '.join('sm_' + t for t in targets)}"
            compilers[".cpp"] += ["-DUSE_CUDA", f'-DMPK_CUDA_BUILD="{build}"', f"-I{root}/include"]
            compress = ["--compress-mode=size"] if release >= (12, 8) else []
            compilers[".cu"] = [nvcc, *common, "-DUSE_CUDA", "-Xcompiler", ",".join(host), "-ccbin", cxx, *compress]
            self.cuda_targets = targets
            link += [f"-L{root}/lib64", f"-L{root}/lib", "-Wl,--exclude-libs,ALL"]
        return compilers, link

    def compile(self, source: str, objects: Path, compilers: dict[str, list[str]]) -> Path:
        o = objects / (source.replace("/", "_") + ".o")
        depfile, stamp = o.with_suffix(".d"), o.with_suffix(".cmd")
        command = [*compilers[Path(source).suffix], "-MMD", "-MF", str(depfile), "-c", source, "-o", str(o)]
        if source.endswith(".cu"):
            command += gencode(targets_of(source, self.cuda_targets), ptx=Path(source).stem == "cuda")
        if o.exists() and depfile.exists() and self.same_command(stamp, command):
            dependencies = re.sub(r"\\\n", " ", depfile.read_text()).split(":", 1)[1].split()
            if all(os.path.exists(d) and os.path.getmtime(d) <= os.path.getmtime(o) for d in dependencies):
                return o
        self.run_command_line(command)
        stamp.write_text(" ".join(command))
        return o

    @staticmethod
    def same_command(stamp: Path, command: list[str]) -> bool:
        return stamp.exists() and stamp.read_text() == " ".join(command)

    @staticmethod
    def run_command_line(command: list[str]) -> None:
        print("  ", " ".join(command), flush=True)
        subprocess.check_call(command)


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def extensions() -> list[Extension]:
    cpu = sources("csrc/host/module.cpp", "csrc/host/parallel.cpp", "csrc/ops/*/cpu*.cpp", "csrc/ops/*/torch.cpp")
    found = [Extension("mpkernels._C", cpu, py_limited_api=True, language="c++")]
    wanted = CONFIG.CUDA.read()
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"MPKERNELS_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted != "0":
        if find_nvcc():
            host = [f"csrc/host/{name}.cpp" for name in ("cuda_module", "launch", "tensor_map")]
            cuda = sources(*host, "csrc/ops/*/cuda_torch.cpp", "csrc/ops/*/sm*_plan.cpp", "csrc/ops/*/*.cu")
            found.append(Extension("mpkernels._cuda", cuda, py_limited_api=True, language="c++"))
        elif wanted == "1":
            raise SystemExit("MPKERNELS_CUDA=1, but no nvcc was found: set NVCC or CUDA_HOME, or pip install 'mpkernels[nvcc]'")
    return found


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt}, options={"bdist_wheel": {"py_limited_api": "cp310"}})
