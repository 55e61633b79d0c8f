"""sgd_update_: one SGD step (momentum, Nesterov) on FP32 masters, from the raw gradients to the low-precision parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_number
from ...dispatch import Op
from ...master_weights import check_update


def check_numbers(lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool) -> None:
    """Raises ValueError unless torch.optim.SGD would take these, and they are finite."""
    check_number("lr", lr, minimum=0)
    check_number("momentum", momentum, minimum=0)
    check_number("dampening", dampening)
    check_number("weight_decay", weight_decay, minimum=0)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got momentum {momentum} and dampening {dampening}")


def _check(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool = False,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    inv_loss_scale: Tensor | None = None,
    grad_norm: Tensor | None = None,
    max_grad_norm: float = 0.0,
    found_inf: Tensor | None = None,
    param_amaxes: list[Tensor] | None = None,
) -> None:
    check_numbers(lr, momentum, dampening, weight_decay, nesterov)
    if momentum == 0 and momentum_buffers:
        raise ValueError(f"momentum_buffers must be empty without momentum, got {len(momentum_buffers)} tensors")
    states = (("momentum_buffers", momentum_buffers),) if momentum != 0 else ()
    scalars = {"lr_tensor": lr_tensor, "inv_loss_scale": inv_loss_scale, "grad_norm": grad_norm, "found_inf": found_inf}
    check_update(masters, states, steps, params, grads, max_grad_norm, scalars, param_amaxes)


def _example(device: torch.device) -> tuple[object, ...]:
    masters, momentum_buffers = ([torch.full((3, 5), value, device=device)] for value in (1.0, 0.0))
    params, grads = ([torch.ones(3, 5, dtype=torch.bfloat16, device=device)] for _ in range(2))
    return masters, momentum_buffers, [torch.zeros((), device=device)], params, grads, 1e-2, 0.9, 0.0, 1e-2


op = Op(
    "sgd_update_(Tensor(a!)[] masters, Tensor(b!)[] momentum_buffers, Tensor(c!)[] steps, Tensor(d!)[] params, Tensor[] grads, "
    "float lr, float momentum, float dampening, float weight_decay, bool nesterov=False, bool maximize=False, "
    "Tensor? lr_tensor=None, Tensor? inv_loss_scale=None, Tensor? grad_norm=None, float max_grad_norm=0.0, "
    "Tensor? found_inf=None, Tensor(e!)[]? param_amaxes=None) -> ()",
    check=_check,
    example=_example,
    package=__name__,
)


def sgd_update_(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool = False,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    inv_loss_scale: Tensor | None = None,
    grad_norm: Tensor | None = None,
    max_grad_norm: float = 0.0,
    found_inf: Tensor | None = None,
    param_amaxes: list[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """One SGD step of many tensors in place: unscale, clip, update the FP32 masters and momentum, write the rounded copies.

    For each tensor, all values float32 and each operation rounded once, in this order (no fused multiply-add):

        g = float32(grad) * inv_loss_scale             absent: 1
        g = g * clip                                   clip = min(1, max_grad_norm / (grad_norm + 1e-6)); absent: 1
        g = -g                                         if maximize
        g = g + weight_decay * master                  if weight_decay != 0
        b = b * momentum + (1 - dampening) * g         if momentum != 0; b = g if step == 0: the first momentum is undampened
        d = b;  d = g + momentum * b if nesterov;  d = g if momentum == 0
        p = master - lr * d
        master, momentum_buffer, step, param = p, b, step + 1, round(p)

    lr, momentum, 1 - dampening, weight_decay, 1e-6 and max_grad_norm are float64 rounded to float32.

    Args:
        masters: FP32 parameters, updated in place. Any shapes; dense without overlap (some order of dimensions is contiguous).
        momentum_buffers: FP32, each with the shape and strides of its master; empty if momentum is 0.
        steps: () float32 each: the number of updates the buffer has seen. At 0 the buffer's content is not used.
        params: empty if the masters are the parameters, else one bfloat16 | float16 copy per master, same shape and strides.
        grads: float32 | bfloat16 | float16, all of one dtype, the shapes of the masters, any strides. Read only.
        lr, momentum, dampening, weight_decay, nesterov: as torch.optim.SGD; lr, momentum, weight_decay >= 0.
        maximize: ascend instead of descend.
        lr_tensor: () float32 on the data's device; replaces lr. Read when the kernel runs.
        inv_loss_scale: () float32. Multiplies every gradient.
        grad_norm: () float32: the norm of the unscaled gradients (`grad_norm_and_check`). Needs max_grad_norm.
        max_grad_norm: > 0 clips by grad_norm; 0 does not clip.
        found_inf: () float32. Nonzero: nothing is written, steps included.
        param_amaxes: one () float32 per master, written with the amax of its new `param`, or of the new master where there are no
            copies, as `amax` gives it: the statistic of the weight's next FP8 scale, without reading the weight for it.
        backend: None picks the first able backend; a name runs that one or raises.

    Numerics:
        The masters, buffers and steps are exact among the backends that declare it (reference, cpu, cuda): the operations above
        are IEEE 754 operations. Against torch.optim.SGD see docs/numerics.md. The copy is exactly the master rounded to nearest
        even; a master beyond the range of float16 gives Inf. A NaN in grad_norm makes every clipped gradient NaN, as in torch.
        param_amaxes are those of `amax`: Inf and NaN propagate, a tensor without elements has 0.

    Raises:
        ValueError: lists of different lengths, shapes or strides that do not match, a number out of range, another device,
            momentum buffers without momentum, nesterov without momentum or with dampening.
        TypeError: an unsupported or mixed dtype.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads 8 bytes a parameter (4 without momentum) plus the gradient, writes 8 (4) plus the copy: 20 (12) with a 16-bit
        gradient and copy. One kernel, on a GPU one more for the scalars (a gradient with other strides than its master is copied
        first); no device synchronisation. param_amaxes add 4 bytes a tensor and no launch.

    Source:
        torch.optim.SGD.

    Example:
        >>> import torch, mpkernels as mp
        >>> master, step, grad = torch.ones(2), torch.tensor(0.0), torch.tensor([1.0, -2.0])
        >>> mp.sgd_update_([master], [], [step], [], [grad], 0.5, 0.0, 0.0, 0.0)
        >>> master, step
        (tensor([0.5000, 2.0000]), tensor(1.))
    """
    op.torch_op(
        masters,
        momentum_buffers,
        steps,
        params,
        grads,
        lr,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        maximize,
        lr_tensor,
        inv_loss_scale,
        grad_norm,
        max_grad_norm,
        found_inf,
        param_amaxes,
        backend=backend,
    )
