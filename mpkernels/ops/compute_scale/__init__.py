"""compute_scale: amax -> (quant_scale, dequant_scale), on the device. Turns a statistic into the scale of an FP8 tensor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_dtype, check_number, check_scalar
from ...dispatch import Op
from ...formats import FP8_DTYPES

# (448 / 2^24) / 2^128 > 2^-144: within this margin no amax gives a quant_scale of 0, whose FP32 limit is 2^-149.
LARGEST_MARGIN = 24


class Scales(NamedTuple):
    """What `compute_scale` returns."""

    quant_scale: Tensor
    dequant_scale: Tensor


def check_margin(margin: int) -> None:
    check_number("margin", margin, minimum=-LARGEST_MARGIN, maximum=LARGEST_MARGIN)


def _check(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> None:
    check_scalar("amax", amax, amax.device)
    check_dtype("dtype", dtype, FP8_DTYPES)
    check_margin(margin)
    if previous is not None:
        check_scalar("previous", previous, amax.device)


def _outputs(amax: Tensor, dtype: torch.dtype, margin: int, power_of_two: bool, previous: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(amax), torch.empty_like(amax)


def _example(device: torch.device) -> tuple[Tensor, torch.dtype]:
    return torch.full((), 3.5, device=device), torch.float8_e4m3fn


op = Op(
    "compute_scale(Tensor amax, ScalarType dtype, int margin=0, bool power_of_two=False, Tensor? previous=None)"
    " -> (Tensor quant_scale, Tensor dequant_scale)",
    check=_check,
    outputs=_outputs,
    example=_example,
    package=__name__,
)


def compute_scale(
    amax: Tensor,
    dtype: torch.dtype,
    *,
    margin: int = 0,
    power_of_two: bool = False,
    previous: Tensor | None = None,
    backend: str | None = None,
) -> Scales:
    """The scales that map `amax` to the largest FP8 value, less `margin` powers of two.

        quant_scale   = min(fp8_max / (amax * 2^margin), FP32 max)        fp8_max = 448 (E4M3), 57344 (E5M2)
        dequant_scale = min(1 / quant_scale, FP32 max)

    Args:
        amax: () float32, any device: max |x| of the data to be quantised.
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
        margin: from -24 to 24. Headroom: amax lands at fp8_max / 2^margin.
        power_of_two: round quant_scale down to a power of two, so that scaling only shifts exponents and adds no rounding.
        previous: () float32 on amax's device: the quant_scale to keep when amax gives none.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        quant_scale, dequant_scale: () float32 on amax's device.

    Numerics:
        quant_scale is the FP32 number nearest (ties to even) to the exact quotient, whether or not amax * 2^margin fits FP32 and
        down to subnormal amax and subnormal results; a quotient beyond FP32 becomes the largest finite FP32. One float64 division
        gives just that (docs/numerics.md has the proof). power_of_two clears the fraction before the rounding: the same as
        clearing the fraction bits of the rounded quotient wherever that is a normal number.
        An amax that is 0, Inf, NaN or negative says nothing: quant_scale is then `previous`, bit for bit, or 1.
        dequant_scale is the nearest FP32 to the reciprocal of the returned quant_scale; it may be subnormal.
        Precision family: exact (every backend returns the same bytes).

    Raises:
        TypeError: amax or previous is not () float32; dtype is not FP8.
        ValueError: margin out of range; previous on another device.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        A few bytes; one kernel; no device synchronisation (the choice of `previous` is made on the device).

    Example:
        >>> import torch, mpkernels as mp
        >>> mp.compute_scale(torch.tensor(3.5), torch.float8_e4m3fn)
        Scales(quant_scale=tensor(128.), dequant_scale=tensor(0.0078))
        >>> mp.compute_scale(torch.tensor(float("nan")), torch.float8_e4m3fn, previous=torch.tensor(64.0)).quant_scale
        tensor(64.)
    """
    return Scales(*op.torch_op(amax, dtype, margin, power_of_two, previous, backend=backend))
