"""A whole step (unscale, check, clip, AdamW on FP32 masters, copy to BF16) on scaled BF16 gradients, against torch's parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..shapes import Shape

LOSS_SCALE = 65536.0
MAX_NORM = 1.0
PEER = "torch: copy, unscale_, clip_grad_norm_, fused AdamW, copy"
BYTES_PER_PARAMETER = 30  # those of adamw_update_, and the gradient once more: the norm comes first


def bf16_model(gradients: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    """Parameters with these gradients, which are those of a scaled loss."""
    params = [torch.nn.Parameter(torch.randn_like(grad)) for grad in gradients]
    for param, grad in zip(params, gradients, strict=True):
        param.grad = grad
    return params


class TorchStep:
    """Of torch's parts only."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.params = bf16_model(gradients)
        self.masters = [torch.nn.Parameter(param.detach().float()) for param in self.params]
        for master in self.masters:
            master.grad = torch.empty_like(master)
        self.optimizer = torch.optim.AdamW(self.masters, fused=True)
        device = self.params[0].device
        self.scaler = torch.amp.GradScaler(device.type, init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros((), device=device))  # makes its scale tensor

    @torch.no_grad()
    def __call__(self) -> None:
        torch._foreach_copy_([master.grad for master in self.masters], [param.grad for param in self.params])
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.masters, MAX_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        torch._foreach_copy_(self.params, self.masters)


class Step:
    """The same with mpkernels."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.optimizer = mp.optim.AdamW(bf16_model(gradients), max_grad_norm=MAX_NORM)
        device = gradients[0].device
        self.scaler = mp.GradScaler(device.type, init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros((), device=device))

    def __call__(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def case(setup: Setup, shape: Shape, sizes: list[tuple[int, ...]]) -> Case:
    gradients = setup.gradients(sizes, torch.bfloat16)
    step = Step(gradients)
    return Case(
        name=f"unscale + check + clip + AdamW + BF16 copy, {shape.layer}",
        shape=shape,
        ours=lambda _: step(),
        peers={PEER: TorchStep([grad.clone() for grad in gradients])},
        bars={PEER: 2.0} if shape.family == "demo" else {},
        bytes_moved=BYTES_PER_PARAMETER * shape.size[0],
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape, sizes in setup.lists():
        yield case(setup, shape, sizes)
