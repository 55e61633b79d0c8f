"""adamw_update_ against torch's fused FP32 AdamW, which neither reads 16-bit gradients nor writes a 16-bit copy."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from .. import peers
from ..cases import COPY, Case, Setup, short
from ..shapes import Shape

BYTES_PER_PARAMETER = 28  # gradient 2, master and both moments 3 * (4 + 4), copy 2
ONE_TENSOR = Shape("demo", (2**25,), "33.6 M in 1 tensor")


def low_precision(setup: Setup, grads: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(setup.random(*grad.shape, dtype=grad.dtype)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    return params


def case(setup: Setup, shape: Shape, sizes: list[tuple[int, ...]], dtype: torch.dtype) -> Case:
    peer_params = [torch.nn.Parameter(setup.random(*size)) for size in sizes]
    for param in peer_params:
        param.grad = torch.randn_like(param) / 1000
    masters = [param.detach().clone() for param in peer_params]
    moments = [[torch.zeros_like(master) for master in masters] for _ in range(2)]
    steps = [setup.scalar(0.0) for _ in masters]
    params, grads = ([t.to(dtype) for t in masters], [param.grad.to(dtype) for param in peer_params])
    large = shape.family != "tiny"
    bytes_moved = BYTES_PER_PARAMETER * shape.size[0]
    beside = {COPY: setup.copy(bytes_moved)} if large else {peers.BARE: peers.bare_custom_op(masters)}
    return Case(
        name=f"{short(dtype)} grads and copy, {shape.layer}",
        shape=shape,
        ours=lambda backend: mp.adamw_update_(
            masters, *moments, steps, params, grads, 1e-3, 0.9, 0.999, 1e-8, 1e-2, backend=backend
        ),
        peers={"torch AdamW(fused=True), FP32 only": torch.optim.AdamW(peer_params, fused=True).step, **beside},
        more_peers={
            "DeepSpeedCPUAdam, no masters": lambda: peers.deepspeed_cpu_adam(low_precision(setup, grads)),
            "apex FusedAdam(master_weights=True)": lambda: peers.apex_fused_adam(low_precision(setup, grads)),
            "TransformerEngine FusedAdam(master_weights=True)": lambda: peers.transformer_engine_fused_adam(
                low_precision(setup, grads)
            ),
        }
        if large and dtype == torch.bfloat16
        else {},
        bars={COPY: 0.95} if large and dtype == torch.bfloat16 else {},
        bytes_moved=bytes_moved,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape, sizes in setup.lists():
        yield case(setup, shape, sizes, torch.bfloat16)
        if shape.family == "demo":
            yield case(setup, shape, sizes, torch.float16)
            yield case(setup, ONE_TENSOR, [ONE_TENSOR.size], torch.bfloat16)
