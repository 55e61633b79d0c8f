"""What the corpus of Triton kernels is made of: a case is a kernel for an architecture; a work is its arguments and a check.

References are torch in float64, or integers. Results are compared within the roundings that the kernel makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .arguments import Buffer
from .asynchrony import Policy
from .triton_launch import BoundKernel, bind_triton

E4M3, E5M2, BF16, FP16, FP32, FP64 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
)
INT8, INT32 = torch.int8, torch.int32
Tensor = torch.Tensor


@dataclass
class Work:
    """One launch: function[grid](*args, **constants), then check() of what it left in the arguments."""

    function: Any
    grid: Sequence[int]
    args: Sequence[Any]
    constants: dict[str, Any]
    check: Callable[[], None]


@dataclass
class Case:
    """A line of the corpus.

    make: makes a Work of `settings`, with new outputs each time. uses: what is in the PTX, so that the case stays what it is.
    under: the policies, if it is not to be the one whose turn it is.
    reports: what is found in Triton's code, as kind and a regular expression. defined: whether the values are right all the same.
    """

    target: int
    make: Callable[..., Work]
    settings: dict[str, Any]
    warps: int = 4
    stages: int = 3
    ctas: int = 1
    uses: Sequence[str] = ()
    under: Sequence[Policy] = ()
    reports: Sequence[tuple[str, str]] = ()
    defined: bool = True

    def bind(self) -> tuple[Work, BoundKernel]:
        work = self.make(**self.settings)
        options = {"num_warps": self.warps, "num_stages": self.stages, "num_ctas": self.ctas}
        return work, bind_triton(work.function, work.args, {**work.constants, **options}, target=self.target)

    def __str__(self) -> str:
        parts = [f"sm{self.target}", self.make.__name__]
        for name, value in self.settings.items():
            if isinstance(value, tuple):
                parts.append("x".join(map(str, value)))
            elif isinstance(value, bool):
                parts.append(name if value else f"no_{name}")
            else:
                parts.append(str(value).removeprefix("torch.").replace("float8_", ""))
        parts.append(f"w{self.warps}s{self.stages}" + (f"c{self.ctas}" if self.ctas > 1 else ""))
        return "-".join(parts)


def normal(*shape: int, dtype: torch.dtype = FP32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(*shape: int, low: int, high: int, dtype: torch.dtype = INT32, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def empty(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    """Filled with what no kernel computes."""
    return torch.full(shape, 99, dtype=torch.uint8).repeat_interleave(dtype.itemsize, -1).view(dtype)


def out(tensor: Tensor, name: str) -> Buffer:
    return Buffer(tensor, name, initialised=False)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def close(got: Tensor, want: Tensor, roundings: float = 1.0, absolute: float = 0.0) -> None:
    """Within `roundings` to the type of `got`, plus `absolute` times the largest value."""
    relative = roundings * torch.finfo(got.dtype).eps / 2
    torch.testing.assert_close(got.double(), want.double(), rtol=relative, atol=absolute * float(want.double().abs().max()))
