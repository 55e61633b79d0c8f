"""Launching Triton kernels: the one place that does, and the one that knows for which architecture.

Backends describe a launch (kernel, grid, arguments, constants, options) and a `Launcher` carries it out. `DeviceLauncher` is the
real one. Tests put others in its place with `using`: one runs the compiled PTX in the emulator, one is for Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import triton
from torch import Tensor

OLDEST_ARCH = 80  # bf16, cp.async and integer redux begin here
OLDEST_TRITON = (3, 5)  # that compiles every kernel; CI runs the two newest
Grid = tuple[int, int, int]


class Target(NamedTuple):
    """What kernels are compiled for: ("cuda", 90), ("hip", "gfx950"), how many multiprocessors share the work, the GPU's name."""

    kind: str
    arch: int | str
    multiprocessors: int
    name: str = ""


class Launch(NamedTuple):
    """One kernel launch. `behind`: the tensors whose addresses stand in a pointer table among the arguments."""

    kernel: Any
    grid: Grid
    args: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]
    behind: Sequence[Tensor] = ()


class Launcher(Protocol):
    def why_not(self, device: torch.device) -> str | None: ...
    def target(self, device: torch.device) -> Target: ...
    def launch(self, launch: Launch) -> None: ...


class DeviceLauncher:
    """Runs kernels on the device of their tensors, on torch's current stream.

    `kernel[grid](...)` finds the compiled variant in Python, which costs as much as a small op. So variants are kept by what
    Triton specialises on: each tensor's dtype and 16-byte alignment, each integer's being 1, a multiple of 16, or wide.
    """

    def __init__(self) -> None:
        self.targets: dict[torch.device, Target] = {}
        self.compiled: dict[tuple[Any, ...], Any] = {}

    def why_not(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"the data is on {device}, not on a GPU"
        if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
            return f"Triton {triton.__version__} is installed; the kernels need {'.'.join(map(str, OLDEST_TRITON))} or later"
        target = self.target(device)
        if target.kind == "cuda" and int(target.arch) < OLDEST_ARCH:
            return f"{device} is sm_{target.arch}; the Triton kernels need sm_{OLDEST_ARCH}"
        return None

    def target(self, device: torch.device) -> Target:
        if device not in self.targets:
            properties = torch.cuda.get_device_properties(device)
            if torch.version.hip:
                name = properties.gcnArchName.split(":")[0]
                self.targets[device] = Target("hip", name, properties.multi_processor_count, properties.name)
            else:
                arch = 10 * properties.major + properties.minor
                self.targets[device] = Target("cuda", arch, properties.multi_processor_count, properties.name)
        return self.targets[device]

    def launch(self, launch: Launch) -> None:
        device = next(a.device for a in launch.args if isinstance(a, Tensor))
        key = (
            launch.kernel,
            device,
            *launch.constants.values(),
            *launch.options.values(),
            *map(specialisation, launch.args),
        )
        with torch.cuda.device(device):
            compiled = self.compiled.get(key)
            if compiled is None:
                self.compiled[key] = launch.kernel[launch.grid](*launch.args, **launch.constants, **launch.options)
            else:
                compiled[launch.grid](*launch.args, *launch.constants.values())


def specialisation(value: Any) -> Any:
    """What of an argument decides which compiled variant may run it, as Triton's own launcher has it."""
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if type(value) is int:
        return value == 1, value % 16 == 0, -(2**31) <= value < 2**31
    return type(value)


_launcher: Launcher = DeviceLauncher()


@contextmanager
def using(launcher: Launcher) -> Iterator[None]:
    """Carry out all launches with another launcher."""
    global _launcher
    before, _launcher = _launcher, launcher
    try:
        yield
    finally:
        _launcher = before


def why_not(name: str, x: Tensor) -> str | None:
    """None if Triton kernels can run on the device of `x`, which the caller calls `name`; else the reason."""
    return _launcher.why_not(x.device)


def target(x: Tensor) -> Target:
    return _launcher.target(x.device)


def launch(
    kernel: Any,
    grid: int | Sequence[int],
    args: Sequence[Any],
    constants: dict[str, Any],
    *,
    behind: Sequence[Tensor] = (),
    num_warps: int = 4,
    num_stages: int = 3,
) -> None:
    """Run `kernel` over `grid`. Arguments come in the kernel's order, constants after them, in its order too.

    FP contraction is off in every kernel: where the contract promises bits, a multiplication and an addition are two roundings.
    """
    sizes = (grid,) if isinstance(grid, int) else tuple(grid)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": False}
    x, y, z = (*sizes, 1, 1)[:3]
    _launcher.launch(Launch(kernel, (x, y, z), tuple(args), constants, options, behind))


cdiv = triton.cdiv
