"""linear_backward: the backward pass of an FP8 linear layer as one op. Quantise the gradient, multiply it with what was kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_device, check_dtype, check_k_major, check_scalar
from ...dispatch import Op
from ...formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from ...operands import check_scaling, quantize_operand
from ..compute_scale import check_margin
from ..quantize import op as quantize
from ..quantize_current import op as quantize_current
from ..scaled_mm import op as scaled_mm


class LinearBackward(NamedTuple):
    """What `linear_backward` returns: () where the operand was not given."""

    grad_x: Tensor
    grad_weight: Tensor


def _check_kept(name: str, kept: Tensor | None, dequant_scale: Tensor | None, columns: int | None, device: torch.device) -> None:
    """An FP8 matrix (any, columns) with its dequant scale, or neither."""
    if (kept is None) != (dequant_scale is None):
        raise ValueError(f"{name} and its dequant scale belong together, got only one of them")
    if kept is None or dequant_scale is None:
        return
    check_dtype(name, kept.dtype, FP8_DTYPES)
    if kept.dim() != 2 or kept.shape[1] != columns:
        raise ValueError(f"{name} must be (K, {columns}), got shape {tuple(kept.shape)}")
    check_k_major(name, kept)
    check_device(name, kept, device)
    check_scalar(f"{name}'s dequant scale", dequant_scale, device)


def _check(
    grad_out: Tensor,
    x_t: Tensor | None,
    dequant_scale_x: Tensor | None,
    weight_t: Tensor | None,
    dequant_scale_weight: Tensor | None,
    grad_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    grad_x_dtype: torch.dtype,
    grad_weight_dtype: torch.dtype,
    fast_dgrad: bool,
    fast_wgrad: bool,
) -> None:
    check_dtype("grad_out", grad_out.dtype, HIGH_PRECISION_DTYPES)
    if grad_out.dim() != 2:
        raise ValueError(f"grad_out must be (M, N), got shape {tuple(grad_out.shape)}")
    device = grad_out.device
    _check_kept("x_t", x_t, dequant_scale_x, grad_out.shape[0], device)
    _check_kept("weight_t", weight_t, dequant_scale_weight, grad_out.shape[1], device)
    check_dtype("dtype", dtype, FP8_DTYPES)
    check_dtype("grad_x_dtype", grad_x_dtype, HIGH_PRECISION_DTYPES)
    check_dtype("grad_weight_dtype", grad_weight_dtype, HIGH_PRECISION_DTYPES)
    check_margin(margin)
    check_scaling("grad_scaling", grad_scaling, device)


def _outputs(
    grad_out: Tensor,
    x_t: Tensor | None,
    dequant_scale_x: Tensor | None,
    weight_t: Tensor | None,
    dequant_scale_weight: Tensor | None,
    grad_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    grad_x_dtype: torch.dtype,
    grad_weight_dtype: torch.dtype,
    fast_dgrad: bool,
    fast_wgrad: bool,
) -> tuple[Tensor, Tensor]:
    M, N = grad_out.shape
    grad_x = grad_out.new_empty((M, weight_t.shape[0]) if weight_t is not None else 0, dtype=grad_x_dtype)
    return grad_x, grad_out.new_empty((N, x_t.shape[0]) if x_t is not None else 0, dtype=grad_weight_dtype)


def _parts(
    grad_out: Tensor,
    x_t: Tensor | None,
    dequant_scale_x: Tensor | None,
    weight_t: Tensor | None,
    dequant_scale_weight: Tensor | None,
    grad_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    grad_x_dtype: torch.dtype,
    grad_weight_dtype: torch.dtype,
    fast_dgrad: bool,
    fast_wgrad: bool,
    *,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    how = (calibrated, record, margin, power_of_two)
    q, q_t, dequant = quantize_operand(grad_out, dtype, grad_scaling, *how, x_t is not None, backend)
    if weight_t is None:
        grad_x = grad_out.new_empty(0, dtype=grad_x_dtype)
    else:
        grad_x = scaled_mm.call(q, weight_t, dequant, dequant_scale_weight, grad_x_dtype, None, fast_dgrad, backend=backend)
    if x_t is None:
        return grad_x, grad_out.new_empty(0, dtype=grad_weight_dtype)
    return grad_x, scaled_mm.call(q_t, x_t, dequant, dequant_scale_x, grad_weight_dtype, None, fast_wgrad, backend=backend)


def _example(device: torch.device) -> tuple[object, ...]:
    grad_out = torch.linspace(-2, 2, 15, device=device).view(5, 3)
    x_t, weight_t = (torch.linspace(-2, 2, 8 * n, device=device).view(8, n).to(torch.float8_e4m3fn) for n in (5, 3))
    one = torch.ones((), device=device)
    scaling = [torch.zeros(4, device=device), one.clone(), one.clone()]
    how = (True, True, torch.float8_e5m2, 0, False, torch.float32, torch.float32, False, False)
    return grad_out, x_t, one, weight_t, one, scaling, *how


op = Op(
    "linear_backward(Tensor grad_out, Tensor? x_t, Tensor? dequant_scale_x, Tensor? weight_t, Tensor? dequant_scale_weight, "
    "Tensor(a!)[] grad_scaling, bool calibrated, bool record, ScalarType dtype, int margin, bool power_of_two, "
    "ScalarType grad_x_dtype, ScalarType grad_weight_dtype, bool fast_dgrad, bool fast_wgrad) "
    "-> (Tensor grad_x, Tensor grad_weight)",
    check=_check,
    outputs=_outputs,
    parts=_parts,
    made_of=(quantize, quantize_current, scaled_mm),
    example=_example,
    package=__name__,
)


def linear_backward(
    grad_out: Tensor,
    x_t: Tensor | None,
    dequant_scale_x: Tensor | None,
    weight_t: Tensor | None,
    dequant_scale_weight: Tensor | None,
    grad_scaling: list[Tensor],
    *,
    calibrated: bool = False,
    record: bool = False,
    dtype: torch.dtype = torch.float8_e5m2,
    margin: int = 0,
    power_of_two: bool = False,
    grad_x_dtype: torch.dtype = torch.bfloat16,
    grad_weight_dtype: torch.dtype = torch.bfloat16,
    fast_dgrad: bool = False,
    fast_wgrad: bool = False,
    backend: str | None = None,
) -> LinearBackward:
    """The two gradients of an FP8 linear layer, from what its forward pass kept.

        q, q_t = quantize_current(grad_out)      grad_x = scaled_mm(q, weight_t)      grad_weight = scaled_mm(q_t, x_t)

    `fp8_linear` calls it; to build something else, call its parts.

    Args:
        grad_out: (M, N), float32 | bfloat16 | float16.
        x_t, dequant_scale_x: (K, M) FP8 and () float32, as `linear_forward` returned them; None: no grad_weight is wanted.
        weight_t, dequant_scale_weight: (K, N) FP8 and () float32; None: no grad_x is wanted.
        grad_scaling, calibrated, record, margin, power_of_two: as `linear_forward`, for grad_out.
        dtype: of grad_out in FP8, float8_e5m2 or float8_e4m3fn.
        grad_x_dtype, grad_weight_dtype, fast_dgrad, fast_wgrad: out_dtype and use_fast_accum of the two products.
        backend: None picks the first able backend; a name runs that one, for each part, or raises.

    Returns:
        grad_x (M, K) and grad_weight (N, K), or (0,).

    Numerics:
        By definition the bytes of the parts in turn, see `quantize`, `quantize_current`, `scaled_mm`.
        Precision family: exact given the backend of scaled_mm.

    Raises:
        TypeError, ValueError: dtypes, shapes, devices, scaling lists. BackendUnavailable: see backend.

    Memory, launches:
        Those of its parts. On the CPU one native call.

    Example:
        >>> import torch, mpkernels as mp
        >>> kept = mp.linear_forward(torch.ones(2, 4), torch.ones(3, 4), None, [], [])
        >>> mp.linear_backward(torch.ones(2, 3), *kept[1:], []).grad_x
        tensor([[3., 3., 3., 3.],
                [3., 3., 3., 3.]], dtype=torch.bfloat16)
    """
    kept = (x_t, dequant_scale_x, weight_t, dequant_scale_weight)
    how = (calibrated, record, dtype, margin, power_of_two, grad_x_dtype, grad_weight_dtype, fast_dgrad, fast_wgrad)
    return LinearBackward(*op.torch_op(grad_out, *kept, grad_scaling, *how, backend=backend))
