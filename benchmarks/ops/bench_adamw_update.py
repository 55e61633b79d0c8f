"""adamw_update_ against what torch needs for the same step: FP32 gradients, the fused FP32 AdamW and a copy back to BF16."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import mpkernels as mp

from ..cases import Case

# A transformer of 33.6 M parameters: 8 layers of width 512 with an MLP of 2048, and an embedding of 16384.
SHAPES = [(16384, 512)] + 8 * [(1536, 512), (512, 512), (2048, 512), (512, 2048), (512,), (512,)]
LOSS_SCALE = 65536.0
MAX_NORM = 1.0


def bf16_model() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for shape in SHAPES:
        param = torch.nn.Parameter(torch.randn(shape, generator=generator).bfloat16())
        param.grad = (torch.randn(shape, generator=generator) * LOSS_SCALE / 1000).bfloat16()
        params.append(param)
    return params


class TorchStep:
    """FP32 masters beside a BF16 model, of torch's parts only."""

    def __init__(self) -> None:
        self.params = bf16_model()
        self.masters = [torch.nn.Parameter(param.detach().float()) for param in self.params]
        self.optimizer = torch.optim.AdamW(self.masters, fused=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros(()))  # makes its scale tensor
        for master in self.masters:
            master.grad = torch.empty_like(master)

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

    def __init__(self) -> None:
        self.optimizer = mp.optim.AdamW(bf16_model(), max_grad_norm=MAX_NORM)
        self.scaler = mp.GradScaler("cpu", init_scale=LOSS_SCALE)
        self.scaler.scale(torch.zeros(()))

    def __call__(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def kernel_case(sizes: list[int], name: str) -> Case:
    """The kernel alone, which also reads BF16 gradients and writes a BF16 copy, against torch's fused step on FP32."""
    torch_params = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    for param in torch_params:
        param.grad = torch.randn_like(param) / 1000
    fused = torch.optim.AdamW(torch_params, fused=True)
    masters = [param.detach().clone() for param in torch_params]
    lists = [masters, *([torch.zeros_like(m) for m in masters] for _ in range(2)), [torch.zeros(()) for _ in masters]]
    params, grads = ([m.bfloat16() for m in masters], [param.grad.bfloat16() for param in torch_params])
    return Case(
        name=name,
        ours=lambda: mp.adamw_update_(*lists, params, grads, 1e-3, 0.9, 0.999, 1e-8, 1e-2),
        peer=fused.step,
        peer_name="torch AdamW(fused=True), fp32 only",
        bytes_moved=28 * sum(sizes),
    )


def cases() -> Iterator[Case]:
    step, torch_step = Step(), TorchStep()
    yield Case(
        name="unscale + check + clip + AdamW + bf16 copy, 33.6 M",
        ours=step,
        peer=torch_step,
        peer_name="torch: copy, unscale_, clip_grad_norm_, fused AdamW, copy",
        bar=2.0,
        bytes_moved=30 * sum(param.numel() for param in torch_step.params),
    )
    del step, torch_step
    yield kernel_case([torch.Size(shape).numel() for shape in SHAPES], "adamw_update_ bf16 grads and copy, 33.6 M in 49 tensors")
    yield kernel_case([2**25], "adamw_update_ bf16 grads and copy, 33.6 M in one tensor")
    yield kernel_case([100] * 100, "adamw_update_ bf16 grads and copy, 100 tensors of 100")
