"""update_loss_scale_: dynamic loss scaling's rule for the next loss scale, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_device, check_number, check_scalar
from ...dispatch import Op


def _check(
    loss_scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
) -> None:
    check_scalar("loss_scale", loss_scale, loss_scale.device)
    check_scalar("found_inf", found_inf, loss_scale.device)
    for name, tracker in (("growth_tracker", growth_tracker), ("hysteresis_tracker", hysteresis_tracker)):
        if tracker.dtype is not torch.int32 or tracker.dim() != 0:
            raise TypeError(f"{name} must be an int32 tensor of shape (), got {tracker.dtype} of shape {tuple(tracker.shape)}")
        check_device(name, tracker, loss_scale.device)
    check_number("growth_factor", growth_factor, above=0)
    check_number("backoff_factor", backoff_factor, above=0)
    check_number("growth_interval", growth_interval, minimum=0)
    check_number("hysteresis", hysteresis, minimum=1, maximum=2**31 - 1)


def _example(device: torch.device) -> tuple[object, ...]:
    trackers = [torch.full((), 1, dtype=torch.int32, device=device) for _ in range(2)]
    return torch.full((), 1024.0, device=device), *trackers, torch.ones((), device=device), 2.0, 0.5, 2000, 1


op = Op(
    "update_loss_scale_(Tensor(a!) loss_scale, Tensor(b!) growth_tracker, Tensor(c!) hysteresis_tracker, Tensor found_inf, "
    "float growth_factor, float backoff_factor, int growth_interval, int hysteresis) -> ()",
    check=_check,
    example=_example,
    package=__name__,
)


def update_loss_scale_(
    loss_scale: Tensor,
    growth_tracker: Tensor,
    hysteresis_tracker: Tensor,
    found_inf: Tensor,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
    hysteresis: int,
    *,
    backend: str | None = None,
) -> None:
    """The loss scale and its counters after a step, in place: shrink on Inf or NaN, grow after a long clean run.

        if found_inf != 0:
            hysteresis_tracker = max(hysteresis_tracker - 1, 0);  growth_tracker = 0
            if hysteresis_tracker == 0:  loss_scale = loss_scale * backoff_factor
        else:
            hysteresis_tracker = hysteresis;  growth_tracker = growth_tracker + 1
            if growth_tracker == growth_interval:
                loss_scale = loss_scale * growth_factor, unless that is Inf;  growth_tracker = 0

    So `hysteresis` bad steps in a row are needed before the loss scale shrinks, and it then shrinks with each further one.

    Args:
        loss_scale: () float32, on the device of all others. Written.
        growth_tracker: () int32, clean steps since the last change or bad step. Written.
        hysteresis_tracker: () int32, bad steps still tolerated plus one; starts at `hysteresis`. Written.
        found_inf: () float32; anything but 0 means a bad step (a sum of flags and a NaN too).
        growth_factor, backoff_factor: finite, > 0.
        growth_interval: clean steps in a row before the scale grows; 0 never grows.
        hysteresis: >= 1; 1 shrinks at the first bad step.
        backend: None picks the first able backend; a name runs that one or raises.

    Numerics:
        The product is a float64 product rounded once to float32. With hysteresis=1 equal to torch._amp_update_scale_ bit for
        bit. Precision family: exact.

    Raises:
        TypeError: a tensor is no scalar of its dtype. ValueError: a device differs, or a number is out of its range.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        16 bytes read, 12 written; one launch; no device synchronisation.

    Source:
        torch._amp_update_scale_; hysteresis as in apex's update_scale_hysteresis, which lets the tracker fall for ever. It
        stops at 0 here, which changes no decision and cannot wrap around.

    Example:
        >>> import torch, mpkernels as mp
        >>> loss_scale, growth, patience = torch.tensor(1024.0), torch.tensor(0).int(), torch.tensor(1).int()
        >>> mp.update_loss_scale_(loss_scale, growth, patience, torch.tensor(1.0), 2.0, 0.5, 2000, 1)
        >>> loss_scale
        tensor(512.)
    """
    op.torch_op(
        loss_scale,
        growth_tracker,
        hysteresis_tracker,
        found_inf,
        growth_factor,
        backoff_factor,
        growth_interval,
        hysteresis,
        backend=backend,
    )
