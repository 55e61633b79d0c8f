"""A driver for Triton that has no GPU: types, cache keys, compilation and limits are real, and a launch is only noted.

    noted = install(90)
    mp.amax(x, backend="triton")   # x on the CPU

For a process of its own: it takes the place of Triton's driver and of mpkernels' launcher for good.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from mpkernels import triton_launch
from mpkernels.triton_launch import DeviceLauncher, Target

# Bytes of shared memory that a block may have. CUDA C++ Programming Guide, technical specifications.
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10, 120: 99 << 10}
MULTIPROCESSORS = 132


class Noted(NamedTuple):
    """A launch as the driver's launcher gets it. args: constants among them."""

    kernel: str
    grid: tuple[int, int, int]
    args: tuple[Any, ...]


noted: list[Noted] = []


class Device:
    """What Triton asks of a driver's device."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_device_properties(self, device: int) -> dict[str, int]:
        limits = {"max_shared_mem": SHARED_BYTES[self.arch], "max_num_regs": 65536, "warpSize": 32}
        return limits | {"multiprocessor_count": MULTIPROCESSORS}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        """(module, function, registers, spills, threads)"""
        return object(), name, 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass


class Launcher:
    """Of one compiled kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, x: int, y: int, z: int, stream: int, name: str, *rest: Any) -> None:
        noted.append(Noted(name, (x, y, z), rest[4:]))  # after packed metadata, launch metadata and two hooks


class StubDriver(DriverBase):
    def __init__(self, arch: int) -> None:
        self.arch, self.utils, self.launcher_cls = arch, Device(arch), Launcher

    @staticmethod
    def is_active() -> bool:
        return True

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing is measured here")

    def get_device_interface(self) -> Any:
        raise NotImplementedError


class CpuLauncher(DeviceLauncher):
    """The device's launcher, told that tensors on the CPU are on a GPU."""

    def __init__(self, arch: int) -> None:
        super().__init__()
        self.targets[torch.device("cpu")] = Target("cuda", arch, MULTIPROCESSORS)

    def why_not(self, device: torch.device) -> str | None:
        return None


def install(arch: int) -> list[Noted]:
    """The launches from now on."""
    driver.set_active(StubDriver(arch))
    torch.cuda.device = lambda device: nullcontext()  # type: ignore[assignment,misc]
    triton_launch._launcher = CpuLauncher(arch)
    return noted
