"""linear_forward: the forward pass of an FP8 linear layer as one op. Quantise x and weight, multiply, keep the transposes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_device, check_dtype
from ...dispatch import Op
from ...formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from ...layout import new_fp8_matrix
from ...operands import check_scaling, quantize_operand
from ..compute_scale import check_margin
from ..quantize import op as quantize
from ..quantize_current import op as quantize_current
from ..scaled_mm import op as scaled_mm


class LinearForward(NamedTuple):
    """What `linear_forward` returns. x_t and weight_t are () where they were not asked for."""

    out: Tensor
    x_t: Tensor
    dequant_scale_x: Tensor
    weight_t: Tensor
    dequant_scale_weight: Tensor


def check_operands(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """X (..., K), weight (N, K), bias (N,) or None: dtypes, shapes and devices."""
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "x must be (..., in_features) and weight (out_features, in_features), "
            f"got x of shape {tuple(x.shape)} and weight of shape {tuple(weight.shape)}"
        )
    check_dtype("x", x.dtype, HIGH_PRECISION_DTYPES)
    check_dtype("weight", weight.dtype, HIGH_PRECISION_DTYPES)
    device = x.device
    if weight.device != device:
        raise ValueError(f"weight must be on x's device {device}, got {weight.device}")
    if bias is None:
        return
    check_dtype("bias", bias.dtype, HIGH_PRECISION_DTYPES)
    check_device("bias", bias, device)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be of shape ({weight.shape[0]},), got {tuple(bias.shape)}")


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_scaling: list[Tensor],
    weight_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    keep_x: bool,
    keep_weight: bool,
    out_dtype: torch.dtype,
    use_fast_accum: bool,
) -> None:
    check_operands(x, weight, bias)
    if x.dim() != 2:
        raise ValueError(f"x must be (M, K), got shape {tuple(x.shape)}")
    check_dtype("dtype", dtype, FP8_DTYPES)
    check_dtype("out_dtype", out_dtype, HIGH_PRECISION_DTYPES)
    check_margin(margin)
    check_scaling("x_scaling", x_scaling, x.device)
    check_scaling("weight_scaling", weight_scaling, x.device)


def _outputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_scaling: list[Tensor],
    weight_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    keep_x: bool,
    keep_weight: bool,
    out_dtype: torch.dtype,
    use_fast_accum: bool,
) -> tuple[Tensor, ...]:
    (M, K), N = x.shape, weight.shape[0]
    out = x.new_empty((M, N), dtype=out_dtype)
    x_t = new_fp8_matrix(x, K, M, dtype) if keep_x else x.new_empty(0, dtype=dtype)
    weight_t = new_fp8_matrix(x, K, N, dtype) if keep_weight else x.new_empty(0, dtype=dtype)
    dequant_scale_x = x.new_empty((), dtype=torch.float32)
    return out, x_t, dequant_scale_x, weight_t, torch.empty_like(dequant_scale_x)


def _parts(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_scaling: list[Tensor],
    weight_scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    dtype: torch.dtype,
    margin: int,
    power_of_two: bool,
    keep_x: bool,
    keep_weight: bool,
    out_dtype: torch.dtype,
    use_fast_accum: bool,
    *,
    backend: str | None,
) -> tuple[Tensor, ...]:
    how = (calibrated, record, margin, power_of_two)
    q_x, x_t, dequant_x = quantize_operand(x, dtype, x_scaling, *how, keep_x, backend)
    q_w, weight_t, dequant_w = quantize_operand(weight, dtype, weight_scaling, *how, keep_weight, backend)
    out = scaled_mm.call(q_x, q_w, dequant_x, dequant_w, out_dtype, bias, use_fast_accum, backend=backend)
    return out, x_t, dequant_x, weight_t, dequant_w


def _example(device: torch.device) -> tuple[object, ...]:
    x, weight = (torch.linspace(-2, 2, 8 * n, device=device).view(n, 8) for n in (5, 3))
    scaling = [[torch.zeros(4, device=device), *(torch.ones((), device=device) for _ in range(2))] for _ in range(2)]
    dtypes = torch.float8_e4m3fn, torch.float32
    return x, weight, torch.ones(3, device=device), *scaling, True, True, dtypes[0], 0, False, True, True, dtypes[1], False


op = Op(
    "linear_forward(Tensor x, Tensor weight, Tensor? bias, Tensor(a!)[] x_scaling, Tensor(b!)[] weight_scaling, bool calibrated, "
    "bool record, ScalarType dtype, int margin, bool power_of_two, bool keep_x, bool keep_weight, ScalarType out_dtype, "
    "bool use_fast_accum) -> (Tensor out, Tensor x_t, Tensor dequant_scale_x, Tensor weight_t, Tensor dequant_scale_weight)",
    check=_check,
    outputs=_outputs,
    parts=_parts,
    made_of=(quantize, quantize_current, scaled_mm),
    example=_example,
    package=__name__,
)


def linear_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_scaling: list[Tensor],
    weight_scaling: list[Tensor],
    *,
    calibrated: bool = False,
    record: bool = False,
    dtype: torch.dtype = torch.float8_e4m3fn,
    margin: int = 0,
    power_of_two: bool = False,
    keep_x: bool = True,
    keep_weight: bool = True,
    out_dtype: torch.dtype = torch.bfloat16,
    use_fast_accum: bool = False,
    backend: str | None = None,
) -> LinearForward:
    """X weight^T + bias in FP8, and the transposes that backward multiplies by: what a linear layer does in its forward pass.

        q_x, x_t = quantize_current(x)      q_w, weight_t = quantize_current(weight)      out = scaled_mm(q_x, q_w) + bias

    `fp8_linear` calls it; to build something else, call its parts.

    Args:
        x: (M, K), float32 | bfloat16 | float16. weight: (N, K), the same dtypes, on x's device. bias: (N,) or None.
        x_scaling, weight_scaling: [] for current scaling, or (amax_history (n,), quant_scale (), dequant_scale ()), float32:
            with calibrated=True `quantize` by that quant_scale; else by current scaling all the same.
        record: fold each amax into its amax_history[0]; where not calibrated, also store the new scales.
        dtype: float8_e4m3fn or float8_e5m2. margin, power_of_two: as `compute_scale`, for current scaling.
        keep_x, keep_weight: whether x_t and weight_t are wanted.
        out_dtype, use_fast_accum: as `scaled_mm`.
        backend: None picks the first able backend; a name runs that one, for each part, or raises.

    Returns:
        out (M, N) of out_dtype; x_t (K, M) and weight_t (K, N) of dtype, laid out as by `quantize`, or (0,); their dequant
        scales, () float32, which are copies: the buffers may change before backward.

    Numerics:
        By definition the bytes of the parts in turn, see `quantize`, `quantize_current`, `scaled_mm`.
        Precision family: exact given the backend of scaled_mm.

    Raises:
        TypeError, ValueError: dtypes, shapes, devices, scaling lists. BackendUnavailable: see backend.

    Memory, launches:
        Those of its parts. On the CPU one native call.

    Example:
        >>> import torch, mpkernels as mp
        >>> result = mp.linear_forward(torch.ones(2, 4), torch.ones(3, 4), None, [], [])
        >>> result.out
        tensor([[4., 4., 4.],
                [4., 4., 4.]], dtype=torch.bfloat16)
        >>> result.x_t.shape, result.weight_t.shape
        (torch.Size([4, 2]), torch.Size([4, 3]))
    """
    how = (calibrated, record, dtype, margin, power_of_two, keep_x, keep_weight, out_dtype, use_fast_accum)
    return LinearForward(*op.torch_op(x, weight, bias, x_scaling, weight_scaling, *how, backend=backend))
