"""sgd_update_, which also reads BF16 gradients and writes a BF16 copy, against torch's fused FP32 SGD."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case
from ..gradients import transformer_gradients


def cases() -> Iterator[Case]:
    for momentum, bytes_per_parameter in ((0.9, 20), (0.0, 12)):
        grads = transformer_gradients(torch.bfloat16)
        peers = [torch.nn.Parameter(torch.randn(grad.shape)) for grad in grads]
        for peer, grad in zip(peers, grads, strict=True):
            peer.grad = grad.float()
        masters = [peer.detach().clone() for peer in peers]
        buffers = [torch.zeros_like(master) for master in masters] if momentum else []
        steps, params = [torch.zeros(()) for _ in masters], [master.bfloat16() for master in masters]
        size = sum(grad.numel() for grad in grads)
        yield Case(
            name=f"sgd_update_ BF16 grads and copy, momentum {momentum}, {size / 1e6:.1f} M",
            ours=lambda a=(masters, buffers, steps, params, grads), m=momentum: mp.sgd_update_(*a, 1e-3, m, 0.0, 1e-4),
            peer=torch.optim.SGD(peers, lr=1e-3, momentum=momentum, weight_decay=1e-4, fused=True).step,
            peer_name="torch SGD(fused=True), FP32 only",
            bytes_moved=bytes_per_parameter * size,
        )
