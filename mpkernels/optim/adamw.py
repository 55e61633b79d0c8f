"""AdamW on FP32 masters."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..ops.adamw_update import adamw_update_, check_numbers
from .master_weight_optimizer import MasterWeightOptimizer, Update, check_lr


class AdamW(MasterWeightOptimizer):
    """torch.optim.AdamW for models whose parameters are BF16 or FP16 (or FP32), in one fused pass over memory.

    Parameters of 16 bits get an FP32 master, `state[p]["master"]`, made from the parameter at the first step. The update runs
    in FP32 on the master, and the parameter becomes the master rounded to nearest even. FP32 parameters are their own masters.

    Args:
        params: parameters, named parameters or dicts of groups, as in torch.optim. float32, bfloat16 or float16.
        lr: a number >= 0, or a one-element tensor, which is read on the device (CUDA graphs, capturable schedules).
        betas, eps, weight_decay, maximize: as in torch.optim.AdamW. Decay is decoupled.
        master_weights: keep masters from step to step. False keeps none: each step widens the parameter, updates it in FP32
            and rounds it once, so that changes below half an ulp of the parameter are lost. The moments are FP32 either way.
        max_grad_norm: clip the gradients as torch.nn.utils.clip_grad_norm_ would, inside the update. The norm is that of all
            gradients of this optimizer. None computes no norm.

    Loss scaling: works with mpkernels.GradScaler and torch.amp.GradScaler. `scaler.step(optimizer)` needs no host
    synchronisation, the gradients are unscaled inside the update and left alone, and a skipped step leaves every byte as it
    was, step counters included.

    Writing to a parameter (load_state_dict of the model, initialisation, `p.copy_`) carries over to its master at the next
    step, where the two differ. Writing through `p.data` hides the change from torch; call `refresh_masters()` after it.

    The state loads into torch.optim.AdamW and back (`state_dict`, `load_state_dict`), without amsgrad.

    Raises:
        ValueError, TypeError: a hyper-parameter or parameter is out of range, complex, or of another dtype, or a gradient is
            sparse. Before anything is written.

    Numerics: see `mpkernels.adamw_update_`.

    Example:
        >>> import torch, mpkernels as mp
        >>> model = torch.nn.Linear(4, 2).bfloat16()
        >>> optimizer = mp.optim.AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0)
        >>> model(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["master"].dtype
        torch.float32
    """

    _state_names = ("exp_avg", "exp_avg_sq")
    _needed_names = _state_names

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        master_weights: bool = True,
        max_grad_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "master_weights": master_weights,
            "max_grad_norm": max_grad_norm,
            # What torch.optim.AdamW wants to find in a loaded state.
            "amsgrad": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "fused": None,
            "decoupled_weight_decay": True,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group["amsgrad"]:
            raise ValueError("amsgrad must be False, got True: mpkernels.optim.AdamW has no amsgrad variant")
        if not group["decoupled_weight_decay"]:
            raise ValueError("decoupled_weight_decay must be True, got False: this state is of torch.optim.Adam, not AdamW")
        beta1, beta2 = group["betas"]
        check_numbers(check_lr(group["lr"]), beta1, beta2, group["eps"], group["weight_decay"])

    def _update(self, group: dict[str, Any], update: Update) -> None:
        exp_avgs, exp_avg_sqs = update.states
        beta1, beta2 = group["betas"]
        adamw_update_(
            update.masters,
            exp_avgs,
            exp_avg_sqs,
            update.steps,
            update.params,
            update.grads,
            update.lr,
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["maximize"],
            **update.scalars,
        )
