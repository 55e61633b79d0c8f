"""adamw_update_ against what torch needs for the same step: FP32 gradients, the fused FP32 AdamW and a copy back to BF16."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case
from ..gradients import transformer_gradients

LOSS_SCALE = 65536.0
MAX_NORM = 1.0


def bf16_model(gradients: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    """Parameters with these gradients, which are those of a scaled loss."""
    params = [torch.nn.Parameter(torch.randn(grad.shape).bfloat16()) for grad in gradients]
    for param, grad in zip(params, gradients, strict=True):
        param.grad = grad
    return params


class TorchStep:
    """Unscale, check, clip, update FP32 masters, copy to a BF16 model: of torch's parts only."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.params = bf16_model(gradients)
        self.masters = [torch.nn.Parameter(param.detach().float()) for param in self.params]
        for master in self.masters:
            master.grad = torch.empty_like(master)
        self.optimizer = torch.optim.AdamW(self.masters, fused=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros(()))  # makes its scale tensor

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
        self.scaler = mp.GradScaler("cpu", init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros(()))

    def __call__(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def kernel_case(sizes: list[int], copy_dtype: torch.dtype) -> Case:
    """The kernel alone, which also reads 16-bit gradients and writes a 16-bit copy, against torch's fused step on FP32."""
    peers = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    for peer in peers:
        peer.grad = torch.randn_like(peer) / 1000
    masters = [peer.detach().clone() for peer in peers]
    moments = [[torch.zeros_like(master) for master in masters] for _ in range(2)]
    steps = [torch.zeros(()) for _ in masters]
    params, grads = ([t.to(copy_dtype) for t in masters], [peer.grad.to(copy_dtype) for peer in peers])
    return Case(
        name=f"adamw_update_ {copy_dtype} grads and copy, {sum(sizes) / 1e6:.1f} M in {len(sizes)}",
        ours=lambda: mp.adamw_update_(masters, *moments, steps, params, grads, 1e-3, 0.9, 0.999, 1e-8, 1e-2),
        peer=torch.optim.AdamW(peers, fused=True).step,
        peer_name="torch AdamW(fused=True), FP32 only",
        bytes_moved=28 * sum(sizes),
    )


def step_case(gradients: list[torch.Tensor], name: str, bar: float | None) -> Case:
    return Case(
        name=f"unscale + check + clip + AdamW + BF16 copy, {name}",
        ours=Step(gradients),
        peer=TorchStep([grad.clone() for grad in gradients]),
        peer_name="torch: copy, unscale_, clip_grad_norm_, fused AdamW, copy",
        bar=bar,
        bytes_moved=30 * sum(grad.numel() for grad in gradients),  # the gradients are read twice: the norm comes first
    )


def cases() -> Iterator[Case]:
    gradients = transformer_gradients(torch.bfloat16)
    sizes = [grad.numel() for grad in gradients]
    yield step_case(gradients, f"{sum(sizes) / 1e6:.1f} M", 2.0)
    yield step_case([torch.randn(64).bfloat16() for _ in range(100)], "100 of 64: the cost of the calls", None)
    for copy_dtype in (torch.bfloat16, torch.float16):
        yield kernel_case(sizes, copy_dtype)
    yield kernel_case([2**25], torch.bfloat16)
