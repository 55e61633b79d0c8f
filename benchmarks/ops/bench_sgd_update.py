"""sgd_update_, which also reads BF16 gradients and writes a BF16 copy, against torch's fused FP32 SGD."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape

BYTES_PER_PARAMETER = {0.9: 20, 0.0: 12}  # momentum -> gradient 2, master 4 + 4, copy 2, and the buffer 4 + 4


def case(setup: Setup, shape: Shape, sizes: list[tuple[int, ...]], momentum: float) -> Case:
    grads = setup.gradients(sizes, torch.bfloat16)
    params = [torch.nn.Parameter(setup.random(*size)) for size in sizes]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.float()
    masters = [param.detach().clone() for param in params]
    buffers = [torch.zeros_like(master) for master in masters] if momentum else []
    lists = masters, buffers, [setup.scalar(0.0) for _ in masters], [master.bfloat16() for master in masters], grads
    peers = {
        "torch SGD(fused=True), FP32 only": torch.optim.SGD(
            params, lr=1e-3, momentum=momentum, weight_decay=1e-4, fused=True
        ).step
    }
    return Case(
        name=f"BF16 grads and copy, momentum {momentum}, {shape.layer}",
        shape=shape,
        ours=lambda backend: mp.sgd_update_(*lists, 1e-3, momentum, 0.0, 1e-4, backend=backend),
        peers=peers | {BARE: bare_custom_op(masters)} if shape.family == "tiny" else peers,
        bytes_moved=BYTES_PER_PARAMETER[momentum] * shape.size[0],
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape, sizes in setup.lists():
        for momentum in (0.9, 0.0)[: 2 if shape.family == "demo" else 1]:
            yield case(setup, shape, sizes, momentum)
