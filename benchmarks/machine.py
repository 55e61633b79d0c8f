"""What a result depends on beside the code: device, versions, commit, clocks; and the device's ceilings, measured."""

from __future__ import annotations

import datetime
import functools
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import mpkernels
from mpkernels import native
from mpkernels.doctor import version_of

from .timing import Call

ROOT = Path(__file__).parents[1]
PEERS = ("torchao", "transformer_engine", "apex", "deepspeed")


def _output_of(*command: str) -> str:
    """What a command prints, or "" where there is none."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _nvidia_smi(device: torch.device, fields: str) -> list[str]:
    index = str(device.index or 0)
    return [
        f.strip()
        for f in _output_of("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", index).split(",")
    ]


def _cpu_name() -> str:
    found = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.processor() or platform.machine()


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def facts(device: torch.device) -> dict[str, Any]:
    """The first line of a file of results: what all its rows have in common."""
    found: dict[str, Any] = {"device": device.type, "name": _cpu_name()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        driver, power = [*_nvidia_smi(device, "driver_version,power.limit"), ""][:2]
        found |= {"name": properties.name, "architecture": f"sm_{properties.major}{properties.minor}", "driver": driver}
        found |= {
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "power_limit_w": power,
        }
        found |= {"cuda": torch.version.cuda, "triton": version_of("triton")}
    else:
        found |= {"threads": torch.get_num_threads(), "capability": native.cpu_capability()}
    return found | {"torch": torch.__version__, "mpkernels": mpkernels.__version__, "python": platform.python_version()}


def described(found: dict[str, Any]) -> str:
    """The facts as half a sentence."""
    what = (
        f"{found['threads']} thread{'s' * (found['threads'] != 1)}, {found['capability']}"
        if found["device"] == "cpu"
        else f"{found['architecture']}, CUDA {found['cuda']}"
    )
    return f"{found['name']} ({what}), torch {found['torch']}"


def file_name(found: dict[str, Any]) -> str:
    """cpu.jsonl, or gpu-<name>.jsonl."""
    if found["device"] == "cpu":
        return "cpu.jsonl"
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', found['name'].lower()).strip('-')}.jsonl"


@functools.cache
def provenance() -> dict[str, Any]:
    """Of a row: the commit, whether the tree differed from it, the day, versions of peers' packages."""
    changed = _output_of("git", "status", "--porcelain", "--", "mpkernels", "csrc", "benchmarks", ":!benchmarks/results")
    packages = {package: version for package in PEERS if (version := version_of(package)) != "not installed"}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {
        "commit": _output_of("git", "rev-parse", "--short=10", "HEAD"),
        "dirty": bool(changed),
        "date": today,
        "packages": packages,
    }


def clock_mhz(device: torch.device) -> float | None:
    """Of the cores now, where the machine tells."""
    if device.type == "cuda":
        text = _nvidia_smi(device, "clocks.sm")[0]
    else:
        khz = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
        found = re.search(r"cpu MHz\s*: ([\d.]+)", _read("/proc/cpuinfo"))
        text = str(float(khz) / 1e3) if khz else found[1] if found else ""
    return float(text) if re.fullmatch(r"[\d.]+", text) else None


class Ceilings:
    """What this device can do, as calls to be timed beside a case: moving bytes, and the fastest matrix product of torch's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        n = 2048 if device.type == "cpu" else 8192
        self.matmul_flops = 2 * n**3
        x = torch.randn(n, n, device=device)
        if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
            codes, one = x.to(torch.float8_e4m3fn), torch.ones((), device=device)
            self.matmul: Call = lambda: torch._scaled_mm(
                codes, codes.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            self.matmul_name = f"torch._scaled_mm float8_e4m3fn, {n}^3"
        elif device.type == "cuda" or native.cpu_capability() == "avx512_bf16":
            low = x.bfloat16()
            self.matmul = lambda: low @ low.t()
            self.matmul_name = f"torch matmul bfloat16, {n}^3"
        else:
            self.matmul = lambda: x @ x.t()
            self.matmul_name = f"torch matmul float32, {n}^3"

    def stream(self, size: int) -> Call:
        """Moves as many bytes: reads half of them and writes them back.

        In place, since a CPU reads a line before it overwrites it: a copy moves half as much again, and would be no ceiling.
        """
        x = torch.randn(max(1, size // 8), device=self.device)
        return x.neg_
