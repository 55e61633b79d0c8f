"""Peers that may be absent. Each function imports and prepares one and returns its call; what it raises is the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mpkernels.recipes import Recipe

from .timing import Call

BARE = "a custom op that does nothing"

_LIBRARY = torch.library.Library("mpkernels_benchmarks", "DEF")
for _schema in ("nothing(Tensor x) -> ()", "nothing_with_a_list(Tensor[] tensors) -> ()"):
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_schema.partition("(")[0], lambda _: None, "CompositeExplicitAutograd")


def bare_custom_op(argument: Tensor | list[Tensor]) -> Call:
    """What any custom operator written in Python costs."""
    op = (
        torch.ops.mpkernels_benchmarks.nothing_with_a_list
        if isinstance(argument, list)
        else torch.ops.mpkernels_benchmarks.nothing
    )
    return lambda: op.default(argument)


def compiled(call: Call) -> Callable[[], Call]:
    return lambda: torch.compile(call, dynamic=False)


def step_of(layer: nn.Module, x: Tensor, grad: Tensor | None) -> Call:
    """One forward, and one backward where there is a gradient."""
    return (lambda: layer(x)) if grad is None else (lambda: layer(x).backward(grad))


def torchao_float8(k: int, n: int, x: Tensor, grad: Tensor | None) -> Call:
    """Float8Linear with its default, dynamic scaling per tensor, in eager mode."""
    from torchao.float8 import convert_to_float8_training

    layer = nn.Sequential(nn.Linear(k, n, dtype=torch.bfloat16, device=x.device))
    return step_of(convert_to_float8_training(layer), x, grad)


def transformer_engine_linear(k: int, n: int, x: Tensor, grad: Tensor | None, recipe: Recipe) -> Call:
    """te.Linear with the recipe of the same name, as is."""
    import transformer_engine.pytorch as te
    from transformer_engine.common import recipe as te_recipes

    layer = te.Linear(k, n, params_dtype=torch.bfloat16, device=x.device)
    same = getattr(te_recipes, type(recipe).__name__)()

    def forward() -> Tensor:
        with te.fp8_autocast(enabled=True, fp8_recipe=same):
            return layer(x)

    return forward if grad is None else (lambda: forward().backward(grad))


def apex_fused_adam(parameters: Sequence[nn.Parameter]) -> Call:
    """With FP32 masters of 16-bit parameters, which apex has in its capturable form only."""
    from apex.optimizers import FusedAdam

    return FusedAdam(parameters, adam_w_mode=True, capturable=True, master_weights=True).step


def transformer_engine_fused_adam(parameters: Sequence[nn.Parameter]) -> Call:
    from transformer_engine.pytorch.optimizers import FusedAdam

    return FusedAdam(parameters, adam_w_mode=True, capturable=True, master_weights=True).step


def deepspeed_cpu_adam(parameters: Sequence[nn.Parameter]) -> Call:
    """FP32 moments, and no FP32 masters: that is another copy in DeepSpeed's own optimizer."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(parameters, adamw_mode=True, fp32_optimizer_states=True).step
