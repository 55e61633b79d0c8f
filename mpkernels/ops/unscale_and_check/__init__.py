"""unscale_and_check_: gradients *= inv_loss_scale in place, and found_inf = 1 if any is Inf or NaN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import check_list, check_scalar, check_writable
from ...dispatch import Op
from ...formats import HIGH_PRECISION_DTYPES


def _check(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    check_scalar("inv_loss_scale", inv_loss_scale, inv_loss_scale.device)
    check_scalar("found_inf", found_inf, inv_loss_scale.device)
    check_list("grads", grads, HIGH_PRECISION_DTYPES, inv_loss_scale.device)
    check_writable("grads", grads)


def _example(device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
    grads = [torch.ones(3, 5, device=device), torch.full((7,), float("inf"), dtype=torch.float16, device=device)]
    return grads, torch.full((), 0.5, device=device), torch.zeros((), device=device)


op = Op(
    "unscale_and_check_(Tensor(a!)[] grads, Tensor inv_loss_scale, Tensor(b!) found_inf) -> ()",
    check=_check,
    example=_example,
    package=__name__,
)


def unscale_and_check_(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor, *, backend: str | None = None) -> None:
    """Multiply all gradients by 1 / loss scale in place, and say whether any is Inf or NaN.

        g = round(float32(g) * inv_loss_scale)            for each element of each tensor
        found_inf = 1                                     if any g is Inf or NaN, before or after; else left alone

    Args:
        grads: list of tensors, any shapes and strides (not expanded, not overlapping each other), float32 | bfloat16 |
            float16 in any mix, all on one device. Written in place. May be empty, and so may its tensors.
        inv_loss_scale: () float32, same device. Read on the device: no host sync.
        found_inf: () float32, same device. Written only if something is found, so one tensor can collect over several calls.
        backend: None picks the first able backend; a name runs that one or raises.

    Numerics:
        The product is an FP32 product, rounded once to g's dtype: nearest, ties to even, subnormals kept, overflow to Inf.
        An Inf that only the rounding made (float16: from 65520 on) counts. A NaN stays a NaN (its payload is not specified).
        Inf or NaN gradients are written like any other; whoever takes the step must look at found_inf.
        Precision family: exact.

    Raises:
        TypeError: inv_loss_scale or found_inf is not a float32 scalar, a gradient has another dtype or is sparse.
        ValueError: a gradient is on another device, or expanded.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads and writes each element once (a backend may leave the bytes where inv_loss_scale is exactly 1).
        One launch for the whole list; no device synchronisation. A gradient that is not dense in memory costs a copy.

    Source: torch._amp_foreach_non_finite_check_and_unscale_, which looks at the input only.

    Example:
        >>> import torch, mpkernels as mp
        >>> grads, found_inf = [torch.tensor([2.0, -4.0]), torch.tensor([8.0])], torch.zeros(())
        >>> mp.unscale_and_check_(grads, torch.tensor(0.5), found_inf)
        >>> grads, found_inf
        ([tensor([ 1., -2.]), tensor([4.])], tensor(0.))
    """
    op.torch_op(grads, inv_loss_scale, found_inf, backend=backend)
