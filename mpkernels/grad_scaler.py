"""GradScaler: torch.amp.GradScaler on this package's ops, with hysteresis and a gradient norm that costs no further read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_number
from .formats import HIGH_PRECISION_DTYPES
from .ops.grad_norm_and_check import grad_norm_and_check
from .ops.unscale_and_check import unscale_and_check_
from .ops.update_loss_scale import update_loss_scale_


def _gradients(optimizer: torch.optim.Optimizer, *, allow_fp16: bool) -> Iterator[Tensor]:
    """The dense tensors that hold the optimizer's gradients. Sparse float16 gradients are coalesced, as torch does."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            if not isinstance(param, Tensor):
                raise AssertionError(f"expected param to be torch.Tensor, got {type(param).__name__}")
            grad = param.grad
            if grad is None:
                continue
            if not allow_fp16 and grad.dtype is torch.float16:
                raise ValueError("Attempting to unscale FP16 gradients.")
            if not grad.is_sparse:
                yield grad
                continue
            if grad.dtype is torch.float16:  # the sum over duplicate indices may overflow, and that must be found
                param.grad = grad = grad.coalesce()
            yield grad._values()


def _by_device(grads: Iterator[Tensor]) -> dict[torch.device, list[Tensor]]:
    per_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for grad in grads:
        per_device[grad.device].append(grad)
    return per_device


def _split(grads: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those for the ops of this package, and those for torch's own kernel: float64, and tensor subclasses such as DTensor."""
    ours: list[Tensor] = []
    others: list[Tensor] = []
    for grad in grads:
        is_ours = type(grad) is Tensor and grad.dtype in HIGH_PRECISION_DTYPES
        (ours if is_ours else others).append(grad)
    return ours, others


def _clips(optimizer: torch.optim.Optimizer) -> bool:
    return any(group.get("max_grad_norm") is not None for group in optimizer.param_groups)


def _unscale_with_torch_(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    per_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for grad in grads:
        per_dtype[grad.dtype].append(grad)
    for same_dtype in per_dtype.values():
        torch._amp_foreach_non_finite_check_and_unscale_(same_dtype, found_inf, inv_loss_scale)


class GradScaler(torch.amp.GradScaler):
    """Dynamic loss scaling: torch.amp.GradScaler, with hysteresis, and without a host sync for optimizers that support it.

    Use it exactly as torch's:

        scaler = mp.GradScaler()
        with torch.autocast("cuda", torch.float16):
            loss = model(x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    It is a torch.amp.GradScaler: methods, errors, scales, skipped steps and state_dict are those of torch. What differs:

    * Unscaling reads and writes all gradients in one launch per device, whatever their dtypes. It also finds a gradient that
      only the unscaling makes infinite (a loss scale below 1), which torch misses.
    * For optimizers with `_step_supports_amp_scaling` (torch's `fused=True`, `mpkernels.optim`) torch reads and rewrites the
      gradients to check them; this reads them only.
    * That read also takes their norm. An optimizer with `max_grad_norm` in a param_group (`mpkernels.optim`) finds the norm
      of all its unscaled gradients, () float32, as `optimizer.grad_norm` during its step(), beside `grad_scale` and
      `found_inf`. Not after an explicit unscale_(): the gradients may have been changed since. Not with gradients on several
      devices, or of a dtype that the ops do not take.
    * `hysteresis` bad steps in a row are needed before the scale shrinks.

    Args:
        device: "cuda", "cpu", ...: the device type of losses and gradients. "cuda" without CUDA warns and disables.
        init_scale: the first loss scale.
        growth_factor, backoff_factor: what the scale is multiplied by after `growth_interval` clean steps in a row, and after
            a step with Inf or NaN gradients. Finite, > 1 and in (0, 1).
        growth_interval: see growth_factor.
        enabled: False makes every method a no-op, and step() plain optimizer.step().
        hysteresis: bad steps in a row until the scale shrinks; 1 (torch's behaviour) shrinks at the first. Each step with
            Inf or NaN gradients is skipped in any case. 2 is Megatron's default.

    Raises:
        AssertionError: growth_factor <= 1 or backoff_factor >= 1, as torch. ValueError: hysteresis < 1.

    Example:
        >>> import torch, mpkernels as mp
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.5), mp.GradScaler("cpu", init_scale=1024.0)
        >>> scaler.scale(weight.sum()).backward()
        >>> scaler.step(optimizer)
        >>> scaler.update()
        >>> weight.data, scaler.get_scale()
        (tensor([0.5000, 0.5000]), 1024.0)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        hysteresis: int = 1,
    ) -> None:
        check_number("hysteresis", hysteresis, minimum=1, maximum=2**31 - 1)
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._hysteresis = self._init_hysteresis_tracker = hysteresis
        self._hysteresis_tracker: Tensor | None = None  # made with _scale, by the first call of scale()

    def _lazy_init_scale_growth_tracker(self, dev: torch.device) -> None:
        super()._lazy_init_scale_growth_tracker(dev)
        self._hysteresis_tracker = torch.full((), self._init_hysteresis_tracker, dtype=torch.int32, device=dev)

    @torch.no_grad()
    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        """Unscales in place; returns a found_inf for each device that has gradients."""
        found_infs = {}
        for device, grads in _by_device(_gradients(optimizer, allow_fp16=allow_fp16)).items():
            ours, others = _split(grads)
            inv_loss_scale = inv_scale.to(device, non_blocking=True)
            found_infs[device] = found_inf.to(device, non_blocking=True, copy=True)
            unscale_and_check_(ours, inv_loss_scale, found_infs[device])
            _unscale_with_torch_(others, inv_loss_scale, found_infs[device])
        return found_infs

    @torch.no_grad()
    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Checks without unscaling, for an optimizer that unscales by itself, and leaves it the norm if it clips by itself."""
        scale, _ = self._check_scale_growth_tracker("_check_inf_per_device")
        # step() multiplies in a grad_scale that is already on the optimizer. In float64, as unscale_() does.
        inv_scale = (scale * getattr(optimizer, "grad_scale", 1)).double().reciprocal().float()
        found_infs = {}
        per_device = _by_device(_gradients(optimizer, allow_fp16=True))
        for device, grads in per_device.items():
            ours, others = _split(grads)
            found_infs[device] = torch.zeros((), dtype=torch.float32, device=device)
            norm = grad_norm_and_check(ours, inv_scale.to(device, non_blocking=True), found_infs[device])
            _unscale_with_torch_(others, torch.ones_like(inv_scale, device=device), found_infs[device])
            if _clips(optimizer) and len(per_device) == 1 and not others:
                optimizer.grad_norm = norm  # type: ignore[attr-defined]  # the protocol of mp.optim
        self._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = found_infs
        return found_infs  # type: ignore[return-value]  # torch's annotation has str for the device

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Take the optimizer's step unless its gradients hold Inf or NaN; see torch.amp.GradScaler.step."""
        try:
            return super().step(optimizer, *args, **kwargs)
        finally:
            if _clips(optimizer):
                vars(optimizer).pop("grad_norm", None)  # it holds for this step's gradients only

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Set the loss scale for the next iteration, on the device; see torch.amp.GradScaler.update.

        Args:
            new_scale: use this value instead of the rule. The counters keep their values.
        """
        if not self._enabled or new_scale is not None:
            super().update(new_scale)
            return
        scale, growth_tracker = self._check_scale_growth_tracker("update")
        found_infs = [
            found_inf.to(scale.device, non_blocking=True)
            for state in self._per_optimizer_states.values()
            for found_inf in state["found_inf_per_device"].values()
        ]
        if not found_infs:
            raise AssertionError("No inf checks were recorded prior to update.")
        found_inf = found_infs[0] if len(found_infs) == 1 else torch.stack(found_infs).sum()
        assert self._hysteresis_tracker is not None  # made with scale
        update_loss_scale_(
            scale,
            growth_tracker,
            self._hysteresis_tracker,
            found_inf,
            self._growth_factor,
            self._backoff_factor,
            self._growth_interval,
            self._hysteresis,
        )
        self._per_optimizer_states.clear()

    def _get_hysteresis_tracker(self) -> int:
        return self._init_hysteresis_tracker if self._hysteresis_tracker is None else int(self._hysteresis_tracker.item())

    def state_dict(self) -> dict[str, Any]:
        """The five entries of torch, and "hysteresis" and "_hysteresis_tracker", which torch's load_state_dict ignores."""
        state = super().state_dict()
        if self._enabled:
            state["hysteresis"] = self._hysteresis
            state["_hysteresis_tracker"] = self._get_hysteresis_tracker()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of this class or of torch's, which leaves the hysteresis as it is and restarts its count."""
        super().load_state_dict(state_dict)
        if not self._enabled:
            return
        self._hysteresis = state_dict.get("hysteresis", self._hysteresis)
        self._init_hysteresis_tracker = state_dict.get("_hysteresis_tracker", self._hysteresis)
        if self._hysteresis_tracker is not None:
            self._hysteresis_tracker.fill_(self._init_hysteresis_tracker)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self._enabled:
            state["_init_hysteresis_tracker"], state["_hysteresis_tracker"] = self._get_hysteresis_tracker(), None
        return state
