"""amax: x -> max |x|. The statistic that FP8 scales are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_dtype
from ...dispatch import Op
from ...formats import HIGH_PRECISION_DTYPES


def _check(x: Tensor) -> None:
    check_dtype("x", x.dtype, HIGH_PRECISION_DTYPES)


def _outputs(x: Tensor) -> tuple[Tensor]:
    return (x.new_empty((), dtype=torch.float32),)


def _example(device: torch.device) -> tuple[Tensor]:
    return (torch.ones(4, 8, dtype=torch.bfloat16, device=device),)


op = Op("amax(Tensor x) -> Tensor", check=_check, outputs=_outputs, example=_example, package=__name__)


def amax(x: Tensor, *, backend: str | None = None) -> Tensor:
    """The largest magnitude in x, as a float32 tensor of shape (): `max |x|`.

    Args:
        x: any shape and strides, float32 | bfloat16 | float16, any device.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        () float32 on x's device. An empty x gives 0.

    Numerics:
        Inf and NaN propagate: any Inf gives Inf, a NaN anywhere gives NaN (its payload is not specified).
        Precision family: exact (float32 holds every value of the input formats).

    Raises:
        TypeError: x has another dtype.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads each element once; one kernel; no device synchronisation.

    Example:
        >>> import torch, mpkernels as mp
        >>> mp.amax(torch.tensor([1.0, -3.0]))
        tensor(3.)
    """
    result: Tensor = op.torch_op(x, backend=backend)
    return result
