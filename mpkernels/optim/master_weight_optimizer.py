"""The base of the optimizers: FP32 masters and state, one multi-tensor update per kind of tensor, loss scaling, clipping.

A step runs in two halves. The first looks at everything and refuses what it must; the second writes. Nothing in it waits for
the device: scales, norms, flags, step counters and tensor learning rates are read by the kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..checks import check_dtype
from ..formats import HIGH_PRECISION_DTYPES
from ..layout import in_memory_order
from ..ops.grad_norm_and_check import grad_norm_and_check

Group = dict[str, Any]
State = dict[str, Any]


@dataclass
class Update:
    """The arguments of one multi-tensor update: the tensors of one group, device and pair of dtypes, and their scalars."""

    masters: list[Tensor]
    states: list[list[Tensor]]
    steps: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    lr: float
    scalars: dict[str, Any]  # lr_tensor, inv_loss_scale, grad_norm, max_grad_norm, found_inf


@dataclass
class _Collected:
    """Parameters of one kind that have a gradient."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)


@dataclass
class _Scalars:
    """What is the same for all updates of a step on one device."""

    inv_loss_scale: Tensor | None
    found_inf: Tensor | None
    grad_norm: Tensor | None = None


_Kind = tuple[torch.device, torch.dtype, torch.dtype]  # of the parameters and their gradients


def check_lr(lr: float | Tensor) -> float:
    """A number to check for lr; a tensor is on the device and cannot be checked, beyond its size."""
    if not isinstance(lr, Tensor):
        return lr
    if lr.numel() != 1:
        raise ValueError(f"lr must be a number or a tensor of one element, got a tensor of shape {tuple(lr.shape)}")
    return 0.0


def _scalar_on(device: torch.device, scalar: Tensor) -> Tensor:
    scalar = scalar.detach() if scalar.dim() == 0 else scalar.detach().reshape(())
    return scalar.to(device=device, dtype=torch.float32, non_blocking=True)


def _mark(param: Tensor) -> tuple[int, int]:
    """Changes whenever torch writes to the parameter or gives it other memory."""
    return param._version, param.data_ptr()


class MasterWeightOptimizer(torch.optim.Optimizer):
    """See AdamW and SGD. A subclass names its FP32 states and calls its op."""

    # torch.amp.GradScaler then sets grad_scale and found_inf instead of unscaling and synchronising.
    _step_supports_amp_scaling = True

    _state_names: ClassVar[tuple[str, ...]]  # FP32 tensors like the parameter, in the order of the op's arguments
    _needed_names: ClassVar[tuple[str, ...]] = ()  # those without which a loaded state is not this optimizer's

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        self._marks: dict[Tensor, tuple[int, int]] = {}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._marks = {}  # unknown: the next step compares every master with its parameter

    @property
    def max_grad_norm(self) -> float | None:
        """The threshold of groups that have none of their own. mpkernels.GradScaler sets `grad_norm` where this exists."""
        value: float | None = self.defaults["max_grad_norm"]
        return value

    def _check_group(self, group: Group) -> None:
        """Raises ValueError if a hyper-parameter is out of range. Runs at every step: schedulers write to groups."""
        max_grad_norm = group["max_grad_norm"]
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be > 0, or None for no clipping, got {max_grad_norm}")

    def _states_of(self, group: Group) -> tuple[str, ...]:
        """The states that the group's settings need."""
        return self._state_names

    def _update(self, group: Group, update: Update) -> None:
        raise NotImplementedError  # abstract: AdamW and SGD call their op here

    def add_param_group(self, param_group: Group) -> None:
        """As torch.optim.Optimizer.add_param_group; the group is not added if one of its settings or parameters is refused."""
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            self._check_group(group)
            for i, param in enumerate(group["params"]):
                check_dtype(f"params[{i}]", param.dtype, HIGH_PRECISION_DTYPES)
                if in_memory_order(param) is None:
                    shape, strides = tuple(param.shape), param.stride()
                    raise ValueError(f"params[{i}] must be dense without overlap, got shape {shape}, strides {strides}")
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def refresh_masters(self) -> None:
        """Make every master agree with its parameter, wherever it does not round to it. For changes made through `p.data`."""
        for group in self.param_groups:
            for param in group["params"]:
                master = self.state[param].get("master") if param in self.state else None
                if master is not None:
                    _refresh(master, param)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        collected = [self._collect(group) for group in self.param_groups]
        scalars = self._scalars(collected)
        for group, kinds in zip(self.param_groups, collected, strict=True):
            for (device, _, _), some in kinds.items():
                update = self._prepare(group, some, device, scalars[device])
                self._update(group, update)
                self._marks.update(zip(update.params, map(_mark, update.params), strict=True))
        return loss

    def _collect(self, group: Group) -> dict[_Kind, _Collected]:
        """The parameters with a gradient by kind, all of them checked."""
        self._check_group(group)
        kinds: dict[_Kind, _Collected] = defaultdict(_Collected)
        for i, param in enumerate(group["params"]):
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise TypeError(f"the gradient of params[{i}] must be a dense tensor, got layout {grad.layout}")
            some = kinds[param.device, param.dtype, grad.dtype]
            some.params.append(param)
            some.grads.append(grad)
        for _, _, grad_dtype in kinds:
            check_dtype("the gradients' dtype", grad_dtype, HIGH_PRECISION_DTYPES)
        return kinds

    def _scalars(self, collected: list[dict[_Kind, _Collected]]) -> dict[torch.device, _Scalars]:
        """What a scaler has set on the optimizer, and the norm if a group is to be clipped, for each device."""
        grad_scale, found_inf, grad_norm = (getattr(self, name, None) for name in ("grad_scale", "found_inf", "grad_norm"))
        grads: dict[torch.device, list[Tensor]] = defaultdict(list)
        for kinds in collected:
            for (device, _, _), some in kinds.items():
                grads[device] += some.grads
        scalars = {
            device: _Scalars(
                inv_loss_scale=_scalar_on(device, grad_scale).reciprocal() if isinstance(grad_scale, Tensor) else None,
                found_inf=_scalar_on(device, found_inf) if isinstance(found_inf, Tensor) else None,  # torch: 0 without gradients
            )
            for device in grads
        }
        thresholds = [group["max_grad_norm"] for group, kinds in zip(self.param_groups, collected, strict=True) if kinds]
        if any(threshold is not None for threshold in thresholds):
            if grad_norm is None:
                grad_norm = _total_norm([_norm(some, scalars[device].inv_loss_scale) for device, some in grads.items()])
            for device, of_device in scalars.items():
                of_device.grad_norm = _scalar_on(device, grad_norm)
        return scalars

    def _prepare(self, group: Group, some: _Collected, device: torch.device, scalars: _Scalars) -> Update:
        """The arguments of an update. Makes the state that is missing."""
        params, states = some.params, [self.state[param] for param in some.params]
        names = ("step", *self._states_of(group))
        try:
            steps, *moments = ([state[name] for state in states] for name in names)
        except KeyError:
            for param, state in zip(params, states, strict=True):
                _complete(state, param, names)
            steps, *moments = ([state[name] for state in states] for name in names)
        is_wide = params[0].dtype is torch.float32
        masters = params if is_wide else list(map(partial(self._master, group), params, states))
        lr, clip = group["lr"], group["max_grad_norm"] is not None
        of_kind = {
            "lr_tensor": _scalar_on(device, lr) if isinstance(lr, Tensor) else None,
            "inv_loss_scale": scalars.inv_loss_scale,
            "grad_norm": scalars.grad_norm if clip else None,
            "max_grad_norm": group["max_grad_norm"] if clip else 0.0,
            "found_inf": scalars.found_inf,
        }
        lr = 0.0 if isinstance(lr, Tensor) else lr
        return Update(masters, moments, steps, [] if is_wide else params, some.grads, lr, of_kind)

    def _master(self, group: Group, param: Tensor, state: State) -> Tensor:
        """The FP32 tensor to update in the place of a 16-bit parameter: its master, or a temporary one."""
        if not group["master_weights"]:
            state.pop("master", None)
            return param.float()
        master: Tensor | None = state.get("master")
        if master is None:
            master = state["master"] = param.float()
        elif self._marks.get(param) != _mark(param):
            _refresh(master, param)
        return master

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or of its namesake in torch.optim. The state stays FP32, bit for bit.

        A 16-bit parameter whose state has no master gets one from the parameter. Settings that the given groups lack (torch's
        have no master_weights and max_grad_norm) stay as they are.

        Raises:
            ValueError: other numbers of groups or parameters, a setting out of range (amsgrad), a state that does not fit.
        """
        own_groups = self.param_groups
        loaded: dict[Any, Any] = {}

        # torch casts the state to the parameter's dtype, so it is given none. As the last pre-hook and the first post-hook
        # these see what the user's hooks made of the dictionary, and are done before the user's hooks look at the result.
        def take_state(_: Any, given: dict[str, Any]) -> dict[str, Any]:
            loaded.update(self._loaded_state(given))
            return {**given, "state": {}}

        def put_state(_: Any) -> None:
            self.state.update(loaded)
            for group, own in zip(self.param_groups, own_groups, strict=True):
                for name, value in own.items():
                    group.setdefault(name, value)

        hooks = (
            self.register_load_state_dict_pre_hook(take_state),
            self.register_load_state_dict_post_hook(put_state, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _loaded_state(self, given: dict[str, Any]) -> dict[Any, Any]:
        """The given state by parameter, converted and checked. Empty if the groups do not match, which torch refuses."""
        groups = given["param_groups"]
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in self.param_groups]:
            return {}
        for own, group in zip(self.param_groups, groups, strict=True):
            self._check_group({**own, **group})
        keys: Iterable[Any] = chain.from_iterable(group["params"] for group in groups)
        params: Iterable[Tensor] = chain.from_iterable(group["params"] for group in self.param_groups)
        by_key = dict(zip(keys, params, strict=True))
        return {
            by_key.get(key, key): self._loaded_param_state(key, by_key[key], saved) if key in by_key else saved
            for key, saved in given["state"].items()
        }

    @torch.no_grad()
    def _loaded_param_state(self, key: Any, param: Tensor, saved: State) -> State:
        absent = [name for name in self._needed_names if saved and saved.get(name) is None]
        if absent:
            raise ValueError(
                f"the state of parameter {key} has no {absent[0]}, only {', '.join(saved)}: not {type(self).__name__}'s"
            )
        names = [*self._state_names, *(["master"] if param.dtype is not torch.float32 else [])]
        state: State = {}
        for name in names:
            value = saved.get(name)
            if value is None:
                continue
            if value.shape != param.shape:
                raise ValueError(f"{name} of parameter {key} must have shape {tuple(param.shape)}, got {tuple(value.shape)}")
            state[name] = torch.empty_like(param, dtype=torch.float32).copy_(value)
        if state or "step" in saved:
            step = saved.get("step", 1.0)  # torch's SGD counts none; its buffer exists once the first update is done
            state["step"] = torch.full((), float(step), dtype=torch.float32, device=param.device)
        return state


def _complete(state: State, param: Tensor, names: tuple[str, ...]) -> None:
    """Missing states begin at zero, and with them the count of updates they have seen."""
    missing = [name for name in names if name not in state]
    if missing:
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
    for name in missing:
        if name != "step":
            state[name] = torch.zeros_like(param, dtype=torch.float32)


def _refresh(master: Tensor, param: Tensor) -> None:
    """Where the master rounds to the parameter it stays, with its low bits; elsewhere it becomes the parameter."""
    master.copy_(torch.where(master.to(param.dtype) == param, master, param.float()))


def _norm(grads: list[Tensor], inv_loss_scale: Tensor | None) -> Tensor:
    if inv_loss_scale is None:
        inv_loss_scale = torch.ones((), dtype=torch.float32, device=grads[0].device)
    # A flag of its own: whether to skip is the scaler's decision, and without one torch's optimizers do not skip.
    return grad_norm_and_check(grads, inv_loss_scale, torch.zeros_like(inv_loss_scale))


def _total_norm(norms: list[Tensor]) -> Tensor:
    """The norm of all from that of each device."""
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
