"""grad_norm_and_check against what torch does for the same answers: unscale and check in place, then clip_grad_norm_'s norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup, short
from ..peers import BARE, bare_custom_op
from ..shapes import Shape


def case(setup: Setup, shape: Shape, sizes: list[tuple[int, ...]], dtype: torch.dtype) -> Case:
    grads, found_inf = setup.gradients(sizes, dtype), setup.scalar(0.0)
    inv_loss_scale = setup.scalar(1 - 2.0**-24)  # leaves the peer's gradients in range however often it is repeated

    def unscale_then_norm() -> torch.Tensor:
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inv_loss_scale)
        return torch.nn.utils.get_total_norm(grads)

    peers = {
        "torch unscale, then get_total_norm": unscale_then_norm,
        "torch get_total_norm": lambda: torch.nn.utils.get_total_norm(grads),
    }
    return Case(
        name=f"{short(dtype)} {shape.layer}",
        shape=shape,
        ours=lambda backend: mp.grad_norm_and_check(grads, inv_loss_scale, found_inf, backend=backend),
        peers=peers | {BARE: bare_custom_op(grads)} if shape.family == "tiny" else peers,
        bytes_moved=sum(g.nbytes for g in grads),
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape, sizes in setup.lists():
        for dtype in (torch.bfloat16, torch.float32, torch.float16)[: 3 if shape.family == "demo" else 1]:
            yield case(setup, shape, sizes, dtype)
