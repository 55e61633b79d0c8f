"""unscale_and_check_ against torch's multi-tensor kernel of the same job, on the gradients of a small transformer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case
from ..gradients import transformer_gradients


def cases() -> Iterator[Case]:
    one = torch.tensor(1.0)
    below_one = torch.tensor(1 - 2.0**-24)  # multiplies, and leaves the values in range however often it is repeated
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        grads, found_inf = transformer_gradients(dtype), torch.zeros(())
        size, bar = sum(g.nbytes for g in grads), None if dtype is torch.float16 else 1.0
        for what, factor, passes in (("", below_one, 2), (", inv_loss_scale 1", one, 1)):
            yield Case(
                name=f"unscale_and_check_ {dtype} 32 M in {len(grads)} tensors{what}",
                ours=lambda g=grads, s=factor, f=found_inf: mp.unscale_and_check_(g, s, f),
                peer=lambda g=grads, s=factor, f=found_inf: torch._amp_foreach_non_finite_check_and_unscale_(g, f, s),
                peer_name="torch._amp_foreach_non_finite_check_and_unscale_",
                bar=bar,
                bytes_moved=passes * size,
            )
    small, found_inf = [torch.randn(64) for _ in range(100)], torch.zeros(())
    yield Case(
        name="unscale_and_check_ torch.float32 100 tensors of 64: the cost of a call",
        ours=lambda: mp.unscale_and_check_(small, below_one, found_inf),
        peer=lambda: torch._amp_foreach_non_finite_check_and_unscale_(small, found_inf, below_one),
        peer_name="torch._amp_foreach_non_finite_check_and_unscale_",
        bytes_moved=2 * sum(g.nbytes for g in small),
    )
