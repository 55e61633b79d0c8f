"""The definition of amax in plain PyTorch. See the contract in __init__.py."""

from __future__ import annotations

from torch import Tensor


def why_not(x: Tensor) -> str | None:
    return None


def run(amax: Tensor, x: Tensor) -> None:
    if x.numel() == 0:
        amax.zero_()
    else:
        amax.copy_(x.abs().amax())
