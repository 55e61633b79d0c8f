"""Fp8Linear against nn.Linear in bfloat16: host overhead on a layer with no work to do, and training shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import mpkernels as mp

from ..cases import Case


def step(layer: torch.nn.Module, x: torch.Tensor, g: torch.Tensor) -> Callable[[], object]:
    """One forward and backward."""
    return lambda: layer(x).backward(g)


def cases() -> Iterator[Case]:
    recipes = {"current": mp.Float8CurrentScaling(), "delayed": mp.DelayedScaling()}
    for m, k, n in ((16, 16, 16), (2048, 512, 2048), (2048, 2048, 2048)):
        x = torch.randn(m, k, dtype=torch.bfloat16, requires_grad=True)
        g = torch.randn(m, n, dtype=torch.bfloat16)
        for name, recipe in recipes.items():
            yield Case(
                name=f"Fp8Linear {name} forward + backward {m} x {k} x {n}",
                ours=step(mp.Fp8Linear(k, n, dtype=torch.bfloat16, recipe=recipe), x, g),
                peer=step(torch.nn.Linear(k, n, dtype=torch.bfloat16), x, g),
                peer_name="nn.Linear in bfloat16",
                bar=0.2 if m == 16 and name == "current" else None,
                flops=6 * m * k * n,
            )
