"""grad_norm_and_check against what torch does for the same answers: unscale and check in place, then clip_grad_norm_'s norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case
from ..gradients import transformer_gradients


def cases() -> Iterator[Case]:
    inv_loss_scale = torch.tensor(1 - 2.0**-24)  # leaves the peer's gradients in range however often it is repeated

    def peer(grads: list[torch.Tensor], found_inf: torch.Tensor) -> torch.Tensor:
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inv_loss_scale)
        return torch.nn.utils.get_total_norm(grads)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        grads, found_inf = transformer_gradients(dtype), torch.zeros(())
        yield Case(
            name=f"grad_norm_and_check {dtype} 32 M in {len(grads)} tensors",
            ours=lambda g=grads, f=found_inf: mp.grad_norm_and_check(g, inv_loss_scale, f),
            peer=lambda g=grads, f=found_inf: peer(g, f),
            peer_name="torch unscale, then get_total_norm",
            bytes_moved=sum(g.nbytes for g in grads),
        )
        yield Case(
            name=f"grad_norm_and_check {dtype} 32 M, against the norm alone",
            ours=lambda g=grads, f=found_inf: mp.grad_norm_and_check(g, inv_loss_scale, f),
            peer=lambda g=grads: torch.nn.utils.get_total_norm(g),
            peer_name="torch get_total_norm",
            bytes_moved=sum(g.nbytes for g in grads),
        )
