"""One thing to measure: a call of ours beside calls that do the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import shapes
from .shapes import Shape
from .timing import Call

COPY = "torch copy_ of as many bytes"


@dataclass(frozen=True)
class Case:
    """A benchmark case. A bench file yields them one at a time, so that only one case's data is alive.

    ours: takes a backend's name; of a layer or a step, None.
    peers: what torch itself offers for the same work. One that raises when called is named in the results with its reason.
    more_peers: measured with --peers. Each value imports and prepares the peer and returns its call; what it raises is the reason
        why there is no such peer here.
    bars: peer's name -> the least ratio peer time / ours that the project promises on a CPU.
    at_most_us: the most microseconds that it promises there.
    bytes_moved, flops: what the work must move and compute at least.
    """

    name: str
    shape: Shape
    ours: Callable[[str | None], object]
    peers: Mapping[str, Call]
    more_peers: Mapping[str, Callable[[], Call]] = field(default_factory=dict)
    bars: Mapping[str, float] = field(default_factory=dict)
    at_most_us: float | None = None
    bytes_moved: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Setup:
    """Where cases are built, and of which families of shapes (shapes.py)."""

    device: torch.device
    families: frozenset[str] = frozenset(shapes.FAMILIES)

    def _wanted(self, found: Iterator[Shape]) -> Iterator[Shape]:
        return (shape for shape in found if shape.family in self.families)

    def products(self) -> Iterator[Shape]:
        """(M, N, K) of matrix products."""
        return self._wanted(shapes.products(self.device.type))

    def matrices(self) -> Iterator[Shape]:
        """(rows, columns) of activations and weights."""
        return self._wanted(shapes.matrices(self.device.type))

    def lists(self) -> Iterator[tuple[Shape, list[tuple[int, ...]]]]:
        """Shapes of all parameters of a model, largest last; and many tiny ones."""
        return ((shape, found) for shape, found in shapes.lists(self.device.type) if shape.family in self.families)

    def tiny(self, *size: int) -> Iterator[Shape]:
        """Nothing to do but the call itself: the host's overhead."""
        return self._wanted(iter([Shape("tiny", size)]))

    def random(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normally distributed: zeros or constants would draw less power and run at higher clocks."""
        return torch.randn(size, device=self.device).to(dtype)

    def scalar(self, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=self.device)

    def copy(self, size: int) -> Call:
        """Reads half as many bytes and writes them elsewhere."""
        source = self.random(size // 8)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def gradients(self, sizes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
        return [self.random(*size, dtype=dtype) for size in sizes]


def short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
