"""SGD with momentum on FP32 masters."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..ops.sgd_update import check_numbers, sgd_update_
from .master_weight_optimizer import MasterWeightOptimizer, Update, check_lr


class SGD(MasterWeightOptimizer):
    """torch.optim.SGD for models whose parameters are BF16 or FP16 (or FP32), in one fused pass over memory.

    Masters, loss scaling, clipping and changed parameters: as `mpkernels.optim.AdamW`.

    Args:
        params: parameters, named parameters or dicts of groups, as in torch.optim. float32, bfloat16 or float16.
        lr: a number >= 0, or a one-element tensor, which is read on the device.
        momentum, dampening, weight_decay, nesterov, maximize: as in torch.optim.SGD.
        master_weights: keep FP32 masters of 16-bit parameters from step to step.
        max_grad_norm: clip the gradients as torch.nn.utils.clip_grad_norm_ would, inside the update. None does not.

    Raises:
        ValueError, TypeError: a hyper-parameter or parameter is out of range, complex, or of another dtype, or a gradient is
            sparse. Before anything is written.

    The state loads into torch.optim.SGD and back. Beside torch's `momentum_buffer` it has `step`, the number of updates that
    the buffer has seen; a state without it, torch's, counts as one whose first update is done.

    Numerics: see `mpkernels.sgd_update_`.

    Example:
        >>> import torch, mpkernels as mp
        >>> model = torch.nn.Linear(4, 2).bfloat16()
        >>> optimizer = mp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        >>> model(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["step"]
        tensor(1.)
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        master_weights: bool = True,
        max_grad_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "master_weights": master_weights,
            "max_grad_norm": max_grad_norm,
            # What torch.optim.SGD wants to find in a loaded state.
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        numbers = (group["momentum"], group["dampening"], group["weight_decay"], group["nesterov"])
        check_numbers(check_lr(group["lr"]), *numbers)

    def _states_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._state_names if group["momentum"] != 0 else ()

    def _update(self, group: dict[str, Any], update: Update) -> None:
        sgd_update_(
            update.masters,
            update.states[0] if update.states else [],
            update.steps,
            update.params,
            update.grads,
            update.lr,
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
            **update.scalars,
        )
