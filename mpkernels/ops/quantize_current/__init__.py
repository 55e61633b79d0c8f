"""quantize_current: quantize with the scale that x itself asks for (current scaling), in one op."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...dispatch import Op
from ..compute_scale import check_margin
from ..quantize import check_input, new_codes


class QuantizedCurrent(NamedTuple):
    """What `quantize_current` returns. `q_t` is None unless the transpose was asked for."""

    q: Tensor
    q_t: Tensor | None
    amax: Tensor
    quant_scale: Tensor
    dequant_scale: Tensor


def _check(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> None:
    check_input(x, dtype, transpose)
    check_margin(margin)


def _outputs(x: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, transpose: bool) -> tuple[Tensor, ...]:
    amax = x.new_empty((), dtype=torch.float32)
    return *new_codes(x, dtype, transpose), amax, torch.empty_like(amax), torch.empty_like(amax)


def _example(device: torch.device) -> tuple[Tensor, torch.dtype, int, bool, bool]:
    return torch.linspace(-2, 2, 40, device=device).view(5, 8), torch.float8_e4m3fn, 0, False, True


op = Op(
    "quantize_current(Tensor x, ScalarType dtype, int margin=0, bool power_of_two=False, bool transpose=False)"
    " -> (Tensor q, Tensor q_t, Tensor amax, Tensor quant_scale, Tensor dequant_scale)",
    check=_check,
    outputs=_outputs,
    example=_example,
    defaults={"dtype": torch.float8_e4m3fn},
    package=__name__,
)


def quantize_current(
    x: Tensor,
    dtype: torch.dtype = torch.float8_e4m3fn,
    *,
    margin: int = 0,
    power_of_two: bool = False,
    transpose: bool = False,
    backend: str | None = None,
) -> QuantizedCurrent:
    """FP8 codes of x under the scale that x's own maximum gives: `amax`, then `compute_scale`, then `quantize`.

        quant_scale, dequant_scale = compute_scale(max |x|, dtype, margin, power_of_two)
        q = saturate(RNE(float32(x) * quant_scale))

    Args:
        x: any shape and strides, float32 | bfloat16 | float16, any device; (M, K) where transpose is True.
        dtype, transpose: as `quantize`. margin, power_of_two: as `compute_scale`.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        q, q_t: as `quantize`, rows of matrices at multiples of 16 bytes. amax, quant_scale, dequant_scale: () float32.

    Numerics:
        By definition the bytes of the three ops in turn; see there. Where x holds Inf or NaN, or nothing but zeros, there is no
        scale to be had and quant_scale is 1.
        Precision family: exact (every backend returns the same bytes).

    Raises:
        TypeError: x or dtype has another dtype.
        ValueError: transpose of an x that is not 2-D; margin out of range.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads each element twice (the second time from cache if x fits), writes 1 B, or 2 B with the transpose; two kernels on a
        GPU; no device synchronisation.

    Example:
        >>> import torch, mpkernels as mp
        >>> result = mp.quantize_current(torch.tensor([1.0, -3.5]))
        >>> result.q.float(), result.quant_scale
        (tensor([ 128., -448.]), tensor(128.))
    """
    q, q_t, amax, quant_scale, dequant_scale = op.torch_op(x, dtype, margin, power_of_two, transpose, backend=backend)
    return QuantizedCurrent(q, q_t if transpose else None, amax, quant_scale, dequant_scale)
