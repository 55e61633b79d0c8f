"""adamw_update_: one AdamW step on FP32 masters, from the raw gradients to the low-precision parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_number
from ...dispatch import Op
from ...master_weights import check_update


def check_numbers(lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
    """Raises ValueError unless torch.optim.AdamW would take these, and they are finite."""
    check_number("lr", lr, minimum=0)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"{name} must be >= 0 and < 1, got {beta}")
    check_number("eps", eps, minimum=0)
    check_number("weight_decay", weight_decay, minimum=0)


def _check(
    masters: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    inv_loss_scale: Tensor | None = None,
    grad_norm: Tensor | None = None,
    max_grad_norm: float = 0.0,
    found_inf: Tensor | None = None,
    param_amaxes: list[Tensor] | None = None,
) -> None:
    check_numbers(lr, beta1, beta2, eps, weight_decay)
    states = (("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs))
    scalars = {"lr_tensor": lr_tensor, "inv_loss_scale": inv_loss_scale, "grad_norm": grad_norm, "found_inf": found_inf}
    check_update(masters, states, steps, params, grads, max_grad_norm, scalars, param_amaxes)


def _example(device: torch.device) -> tuple[object, ...]:
    masters, exp_avgs, exp_avg_sqs = ([torch.full((3, 5), value, device=device)] for value in (1.0, 0.0, 0.0))
    params, grads = ([torch.ones(3, 5, dtype=torch.bfloat16, device=device)] for _ in range(2))
    steps = [torch.zeros((), device=device)]
    return masters, exp_avgs, exp_avg_sqs, steps, params, grads, 1e-2, 0.9, 0.999, 1e-8, 1e-2


op = Op(
    "adamw_update_(Tensor(a!)[] masters, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, "
    "Tensor(e!)[] params, Tensor[] grads, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool maximize=False, Tensor? lr_tensor=None, Tensor? inv_loss_scale=None, Tensor? grad_norm=None, "
    "float max_grad_norm=0.0, Tensor? found_inf=None, Tensor(f!)[]? param_amaxes=None) -> ()",
    check=_check,
    example=_example,
    package=__name__,
)


def adamw_update_(
    masters: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
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
    """One AdamW step of many tensors in place: unscale, clip, update the FP32 masters and moments, write the rounded copies.

    For each tensor, all values float32 and each operation rounded once, in this order (no fused multiply-add):

        g = float32(grad) * inv_loss_scale             absent: 1
        g = g * clip                                   clip = min(1, max_grad_norm / (grad_norm + 1e-6)); absent: 1
        g = -g                                         if maximize
        p = master * decay
        m = m + w * (g - m)                            w = 1 - beta1; if w >= 0.5: m = g + (w - 1) * (g - m), as torch.lerp
        v = v * beta2 + ((1 - beta2) * g) * g
        p = p - (step_size * m) / (sqrt(v) * inv_sqrt_bias2 + eps)
        master, exp_avg, exp_avg_sq, step, param = p, m, v, t, round(p)

    with, computed in float64 from t = step + 1 and then rounded to float32:

        decay = 1 - lr * weight_decay      step_size = lr / (1 - beta1^t)      inv_sqrt_bias2 = 1 / sqrt(1 - beta2^t)

    beta1, beta2, 1 - beta1, 1 - beta2, eps, 1e-6 and max_grad_norm are float64 rounded to float32; the division and the sum
    in `clip` are float32. beta^t is computed by repeated squaring (least significant bit of t first).

    Args:
        masters: FP32 parameters, updated in place. Any shapes; dense without overlap (some order of dimensions is contiguous).
        exp_avgs, exp_avg_sqs: FP32 moments, each with the shape and strides of its master.
        steps: () float32 each: the number of updates done so far, a whole number up to 2^24.
        params: empty if the masters are the parameters, else one bfloat16 | float16 copy per master, same shape and strides.
        grads: float32 | bfloat16 | float16, all of one dtype, the shapes of the masters, any strides. Read only.
        lr, beta1, beta2, eps, weight_decay: as torch.optim.AdamW; lr, eps, weight_decay >= 0, 0 <= beta < 1.
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
        The masters, moments and steps are exact among the backends that declare it (reference, cpu, cuda): the operations above
        are IEEE 754 operations. Against torch.optim.AdamW see docs/numerics.md. The copy is exactly the master rounded to nearest
        even; a master beyond the range of float16 gives Inf. A NaN in grad_norm makes every clipped gradient NaN, as in torch.
        param_amaxes are those of `amax`: Inf and NaN propagate, a tensor without elements has 0.

    Raises:
        ValueError: lists of different lengths, shapes or strides that do not match, a number out of range, another device.
        TypeError: an unsupported or mixed dtype.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads 12 bytes a parameter plus the gradient, writes 12 plus the copy: 28 with a 16-bit gradient and copy. One
        kernel, on a GPU one more for the scalars (a gradient with other strides than its master is copied first); no device
        synchronisation. param_amaxes add 4 bytes a tensor and no launch.

    Source:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, https://arxiv.org/abs/1711.05101; torch.optim.AdamW.

    Example:
        >>> import torch, mpkernels as mp
        >>> master, m, v, step = torch.ones(2), torch.zeros(2), torch.zeros(2), torch.tensor(0.0)
        >>> param, grad = torch.ones(2, dtype=torch.bfloat16), torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
        >>> mp.adamw_update_([master], [m], [v], [step], [param], [grad], 0.5, 0.9, 0.999, 1e-8, 0.0)
        >>> master, param, step
        (tensor([0.5000, 1.5000]), tensor([0.5000, 1.5000], dtype=torch.bfloat16), tensor(1.))
    """
    op.torch_op(
        masters,
        exp_avgs,
        exp_avg_sqs,
        steps,
        params,
        grads,
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        maximize,
        lr_tensor,
        inv_loss_scale,
        grad_norm,
        max_grad_norm,
        found_inf,
        param_amaxes,
        backend=backend,
    )
