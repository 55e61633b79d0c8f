"""unscale_and_check_ against torch's multi-tensor kernel of the same job, on the gradients of a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup, short
from ..peers import BARE, bare_custom_op
from ..shapes import Shape

PEER = "torch._amp_foreach_non_finite_check_and_unscale_"
BELOW_ONE = 1 - 2.0**-24  # multiplies, and leaves the values in range however often it is repeated


def case(setup: Setup, shape: Shape, sizes: list[tuple[int, ...]], dtype: torch.dtype, factor: float) -> Case:
    grads, found_inf, inv_loss_scale = setup.gradients(sizes, dtype), setup.scalar(0.0), setup.scalar(factor)
    peers = {PEER: lambda: torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inv_loss_scale)}
    return Case(
        name=f"{short(dtype)} {shape.layer}{', inv_loss_scale 1' * (factor == 1)}",
        shape=shape,
        ours=lambda backend: mp.unscale_and_check_(grads, inv_loss_scale, found_inf, backend=backend),
        peers=peers | {BARE: bare_custom_op(grads)} if shape.family == "tiny" else peers,
        bars={PEER: 1.0} if shape.family == "demo" and dtype != torch.float16 else {},
        bytes_moved=(1 if factor == 1 else 2) * sum(g.nbytes for g in grads),
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape, sizes in setup.lists():
        for dtype in (torch.bfloat16, torch.float32, torch.float16)[: 3 if shape.family == "demo" else 1]:
            for factor in (BELOW_ONE, 1.0)[: 1 if shape.family == "tiny" else 2]:
                yield case(setup, shape, sizes, dtype, factor)
