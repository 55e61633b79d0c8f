"""Triton backends without a GPU: each launch is compiled for a target by Triton and its PTX run in the emulator.

The `backend` fixture (conftest.py) puts a launcher made here where mpkernels/triton_launch.py has the device's.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from emulated import IN_STEP
from ptx_emulator import EVERY_POLICY, Buffer, Policy, Result
from torch import Tensor

if TYPE_CHECKING:
    from mpkernels.triton_launch import Launch

# Multiprocessors: few, so that the persistent kernels' programs take several turns, and different ones.
TARGETS = {"sm_80": 2, "sm_89": 3, "sm_90": 2, "sm_100": 1, "sm_120": 2}

# A list of 160 tensors takes 10 s where warps run at random, under one in step.
MOST_PROGRAMS_AT_RANDOM = 8
LAUNCHES_KEPT = 16  # a result holds all that the launch had in shared memory and registers


def why_not() -> str | None:
    return None if importlib.util.find_spec("triton") else "needs triton"


@dataclass
class EmulatedLauncher:
    """A Launcher of mpkernels.triton_launch. `kernels`: what was launched; `results`: what the last launches did.

    policy: of the emulator; None: the launches take turns through all of them, those of many programs through those in step.
    is_unwritten: tells of a tensor whether its bytes count as never written, so that a kernel may not read them.
    parts: (a tensor too large to emulate, the part of it that is there).
    ctas: of a grid; those that run.
    """

    arch: int
    multiprocessors: int
    policy: Policy | None = None
    is_unwritten: Callable[[Tensor], bool] = lambda tensor: False
    turn: int = 0
    numerics: str = "exact"
    parts: Sequence[tuple[Tensor, Tensor]] = ()
    ctas: Callable[[int], Sequence[int]] = range
    results: deque[Result] = field(default_factory=lambda: deque(maxlen=LAUNCHES_KEPT))
    kernels: list[str] = field(default_factory=list)

    def why_not(self, device: torch.device) -> None:
        return None

    def target(self, device: torch.device) -> Any:
        from mpkernels.triton_launch import Target

        return Target("cuda", self.arch, self.multiprocessors)

    def launch(self, launch: Launch) -> None:
        from ptx_emulator.triton_launch import launch_triton

        self.turn += 1
        self.kernels.append(launch.kernel.__name__)
        args = [self.argument(a, launch) if isinstance(a, Tensor) else a for a in launch.args]
        bases = [self.buffer(a.base) for a in launch.args if hasattr(a, "block_shape")]
        policies = EVERY_POLICY if prod(launch.grid) <= MOST_PROGRAMS_AT_RANDOM else IN_STEP
        self.results.append(
            launch_triton(
                launch.kernel,
                launch.grid,
                args,
                {**launch.constants, **launch.options},
                target=self.arch,
                bases=bases,
                ctas=self.ctas(prod(launch.grid)),
                policy=self.policy or policies[self.turn % len(policies)],
                numerics=self.numerics,
            )
        )

    def argument(self, tensor: Tensor, launch: Launch) -> Buffer:
        table = launch.behind and tensor is launch.args[0]
        return self.buffer(tensor, [self.buffer(t) for t in launch.behind] if table else ())

    def buffer(self, tensor: Tensor, behind: Sequence[Buffer] = ()) -> Buffer:
        part = next((part for whole, part in self.parts if whole.data_ptr() == tensor.data_ptr()), None)
        phase = (tensor if part is None else part).data_ptr() % 256
        return Buffer(tensor, None, not self.is_unwritten(tensor), phase, behind, part)


def launcher(target: str, is_unwritten: Callable[[Tensor], bool], turn: int, policy: Policy | None = None) -> EmulatedLauncher:
    """For a key of TARGETS."""
    return EmulatedLauncher(int(target.removeprefix("sm_")), TARGETS[target], policy, is_unwritten, turn)
