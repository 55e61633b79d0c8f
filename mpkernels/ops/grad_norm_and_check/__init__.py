"""grad_norm_and_check: the L2 norm of the unscaled gradients and found_inf, in one read that leaves them alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import check_list, check_scalar
from ...dispatch import Op
from ...formats import HIGH_PRECISION_DTYPES


def _check(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> None:
    check_scalar("inv_loss_scale", inv_loss_scale, inv_loss_scale.device)
    check_scalar("found_inf", found_inf, inv_loss_scale.device)
    check_list("grads", grads, HIGH_PRECISION_DTYPES, inv_loss_scale.device)


def _outputs(grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor) -> tuple[Tensor]:
    return (inv_loss_scale.new_empty(()),)


def _example(device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
    grads = [torch.full((3, 5), 4.0, device=device), torch.ones(7, dtype=torch.bfloat16, device=device)]
    return grads, torch.full((), 0.5, device=device), torch.zeros((), device=device)


op = Op(
    "grad_norm_and_check(Tensor[] grads, Tensor inv_loss_scale, Tensor(a!) found_inf) -> Tensor",
    check=_check,
    outputs=_outputs,
    example=_example,
    package=__name__,
)


def grad_norm_and_check(
    grads: Sequence[Tensor], inv_loss_scale: Tensor, found_inf: Tensor, *, backend: str | None = None
) -> Tensor:
    """The L2 norm of all gradients after unscaling, and whether any is Inf or NaN.

        norm = |inv_loss_scale| * sqrt(sum g^2)           over all elements of all tensors
        found_inf = 1                                     if any g, or g * inv_loss_scale in g's dtype, is Inf or NaN

    Args:
        grads: list of tensors, any shapes and strides, float32 | bfloat16 | float16 in any mix, all on one device. Not
            written. May be empty, and so may its tensors.
        inv_loss_scale: () float32, same device. Read on the device: no host sync.
        found_inf: () float32, same device. Written only if something is found, so one tensor can collect over several calls.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        () float32. No elements at all give 0.

    Numerics:
        The sum is wide enough that no finite gradient overflows or vanishes in it: the norm of float32 gradients of 1e38 or
        1e-45 is right, and neither raises found_inf. An Inf gradient gives Inf, a NaN gradient NaN, as they would in
        torch.nn.utils.clip_grad_norm_. A norm above the largest float32 (which takes gradients above 1e38 / sqrt(count))
        becomes Inf without found_inf: every gradient is finite. found_inf equals that of unscale_and_check_, bit for bit.
        The order of the sum is fixed by the sizes in the list: the same input gives the same bytes on one backend, whatever
        the number of threads. Precision family: ulp(4) from the exact value rounded once (docs/numerics.md).

    Raises:
        TypeError: inv_loss_scale or found_inf is not a float32 scalar, a gradient has another dtype or is sparse.
        ValueError: a gradient is on another device.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads each element once, writes two scalars. No device synchronisation. A gradient that is not dense in memory costs
        a copy.

    Example:
        >>> import torch, mpkernels as mp
        >>> found_inf = torch.zeros(())
        >>> mp.grad_norm_and_check([torch.tensor([6.0]), torch.tensor([[-8.0]])], torch.tensor(0.5), found_inf), found_inf
        (tensor(5.), tensor(0.))
    """
    norm: Tensor = op.torch_op(grads, inv_loss_scale, found_inf, backend=backend)
    return norm
