"""unscale_and_check_ against torch's multi-tensor kernel of the same job, on the gradients of a small transformer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def transformer_gradients(dtype: torch.dtype, *, layers: int = 10, width: int = 512) -> list[torch.Tensor]:
    """33 M elements in 62 tensors: embedding, head, and per layer the weights and norms of attention and MLP."""
    shapes = [(1024, width), (1024, width)]
    for _ in range(layers):
        shapes += [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (width,), (width,)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def cases() -> Iterator[Case]:
    # 1 - 2^-24 is no power of two and leaves the values in range however often the passes are repeated
    inv_loss_scale = torch.tensor(1 - 2.0**-24)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        grads, found_inf = transformer_gradients(dtype), torch.zeros(())
        size = sum(g.nbytes for g in grads)
        yield Case(
            name=f"unscale_and_check_ {dtype} 32 M in {len(grads)} tensors",
            ours=lambda g=grads, f=found_inf: mp.unscale_and_check_(g, inv_loss_scale, f),
            peer=lambda g=grads, f=found_inf: torch._amp_foreach_non_finite_check_and_unscale_(g, f, inv_loss_scale),
            peer_name="torch._amp_foreach_non_finite_check_and_unscale_",
            bar=1.0,
            bytes_moved=2 * size,
        )
