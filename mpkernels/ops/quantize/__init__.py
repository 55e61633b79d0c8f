"""quantize: x -> FP8 codes, their transpose and max |x|, in one read. The way into every FP8 matmul."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_dtype, check_scalar
from ...dispatch import Op
from ...formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from ...layout import ROW_BYTES, new_fp8_matrix


class Quantized(NamedTuple):
    """What `quantize` returns. `q_t` is None unless the transpose was asked for."""

    q: Tensor
    q_t: Tensor | None
    amax: Tensor


def check_input(x: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    """The part of the contract that `quantize_current` shares."""
    check_dtype("x", x.dtype, HIGH_PRECISION_DTYPES)
    check_dtype("dtype", dtype, FP8_DTYPES)
    if transpose and x.dim() != 2:
        raise ValueError(f"x must be (M, K) where transpose=True, got shape {tuple(x.shape)}")


def new_codes(x: Tensor, dtype: torch.dtype, transpose: bool) -> tuple[Tensor, Tensor]:
    """(q, q_t), uninitialised. Without the transpose q_t is (0,): a torch operator cannot return None."""
    if x.dim() != 2 or x.shape[1] % ROW_BYTES == 0:
        q = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    else:
        q = new_fp8_matrix(x, x.shape[0], x.shape[1], dtype)
    return q, new_fp8_matrix(x, x.shape[1], x.shape[0], dtype) if transpose else q.new_empty(0)


def _check(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> None:
    check_input(x, dtype, transpose)
    check_scalar("quant_scale", quant_scale, x.device)


def _outputs(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> tuple[Tensor, Tensor, Tensor]:
    return *new_codes(x, dtype, transpose), torch.empty_like(quant_scale)


def _example(device: torch.device) -> tuple[Tensor, Tensor, torch.dtype, bool]:
    x = torch.linspace(-2, 2, 40, device=device).view(5, 8)
    return x, torch.full((), 224.0, device=device), torch.float8_e4m3fn, True


op = Op(
    "quantize(Tensor x, Tensor quant_scale, ScalarType dtype, bool transpose=False) -> (Tensor q, Tensor q_t, Tensor amax)",
    check=_check,
    outputs=_outputs,
    example=_example,
    defaults={"dtype": torch.float8_e4m3fn},
    package=__name__,
)


def quantize(
    x: Tensor,
    quant_scale: Tensor,
    dtype: torch.dtype = torch.float8_e4m3fn,
    *,
    transpose: bool = False,
    backend: str | None = None,
) -> Quantized:
    """FP8 codes of `x * quant_scale`, and `max |x|` for the next scale.

        q = saturate(RNE(float32(x) * quant_scale))        max = 448 (E4M3), 57344 (E5M2)

    Args:
        x: any shape and strides, float32 | bfloat16 | float16, any device; (M, K) where transpose is True.
        quant_scale: () float32 on x's device, > 0 (`compute_scale` makes one). Multiplies x.
        dtype: torch.float8_e4m3fn (activations, weights) or torch.float8_e5m2 (gradients).
        transpose: also return q_t, for the operand that the backward pass reads the other way round.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        q: x's shape. q_t: (K, M), the transpose of q, or None. amax: () float32, max |x| before scaling.
        A matrix has adjacent columns and rows that begin at multiples of 16 bytes, as FP8 matmuls want them: strides
        (columns rounded up to 16, 1). What lies between the rows is unspecified. Other shapes are contiguous.

    Numerics:
        x is widened to FP32 (exact), multiplied in FP32 (one rounding), rounded to nearest with ties to even, then saturated:
        finite overflow and ±Inf give ±max, so no code is ever an infinity. FP8 subnormals are kept, -0 keeps its sign.
        A NaN product gives the NaN code 0x7f (S.1111.111 in E4M3, S.11111.11 in E5M2), in every backend. The sign bit of every
        code, NaN included, is x's sign times quant_scale's, whatever sign the hardware gives a NaN.
        amax propagates Inf and NaN as `amax` does; an empty x gives 0.
        Precision family: exact (every backend returns the same bytes). Reasons: docs/numerics.md.

    Raises:
        TypeError: x, quant_scale or dtype has another dtype; quant_scale is not of shape ().
        ValueError: transpose of an x that is not 2-D; quant_scale on another device.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads each element once (2 or 4 B), writes 1 B, or 2 B with the transpose, and up to 15 B after each row; one kernel; no
        device synchronisation.

    Source:
        OCP 8-bit Floating Point Specification (OFP8) v1.0: the encodings, and conversion in saturating mode.

    Example:
        >>> import torch, mpkernels as mp
        >>> q, q_t, amax = mp.quantize(torch.tensor([[1.0, 1000.0], [-2.0, 17.0]]), torch.tensor(1.0), transpose=True)
        >>> q.float(), amax
        (tensor([[  1., 448.],
                [ -2.,  16.]]), tensor(1000.))
        >>> torch.equal(q_t.float(), q.float().t())
        True
    """
    q, q_t, amax = op.torch_op(x, quant_scale, dtype, transpose, backend=backend)
    return Quantized(q, q_t if transpose else None, amax)
