"""A Launcher of mpkernels.triton_launch that interprets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mpkernels.triton_launch import Launch

# Those whose kernels differ: decoding, FP8 by pointers, tensor descriptors, block scales, and AMD's.
TARGETS: tuple[tuple[str, int | str], ...] = (
    ("cuda", 80),
    ("cuda", 89),
    ("cuda", 90),
    ("cuda", 100),
    ("cuda", 120),
    ("hip", "gfx950"),
)


def wanted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def install() -> None:
    from . import casts, checks

    casts.install()
    checks.install()


@dataclass
class InterpretedLauncher:
    """turn: which of TARGETS the ops take this for."""

    turn: int

    def why_not(self, device: torch.device) -> None:
        install()

    def target(self, device: torch.device) -> Any:
        from mpkernels.triton_launch import Target

        return Target(*TARGETS[self.turn % len(TARGETS)], 2)

    def launch(self, launch: Launch) -> None:
        from .checks import watch

        install()
        bases = [getattr(a, "base", a) if hasattr(a, "block_shape") else a for a in launch.args]
        with watch([t for t in (*bases, *launch.behind) if isinstance(t, Tensor)]):
            launch.kernel[launch.grid](*launch.args, **launch.constants, **launch.options)
