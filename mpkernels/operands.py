"""The operands of linear_forward and linear_backward on their way into FP8: by their own amax, or by the scales of a history."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_device, check_scalar
from .ops.quantize import op as quantize
from .ops.quantize_current import op as quantize_current

SCALING_TENSORS = ("amax_history", "quant_scale", "dequant_scale")


def check_scaling(name: str, scaling: list[Tensor], device: torch.device) -> None:
    """[] for current scaling, or (amax_history, quant_scale, dequant_scale): float32 of shapes (n,), (), ()."""
    if not scaling:
        return
    if len(scaling) != len(SCALING_TENSORS):
        raise ValueError(f"{name} must hold {', '.join(SCALING_TENSORS)}, or nothing, got {len(scaling)} tensors")
    history, quant_scale, dequant_scale = scaling
    if history.dtype is not torch.float32 or history.dim() != 1 or not history.shape[0]:
        raise TypeError(
            f"{name}[0] must be float32 of shape (amax_history_len,), got {history.dtype} of shape {tuple(history.shape)}"
        )
    check_device(f"{name}[0]", history, device)
    check_scalar(f"{name}[1]", quant_scale, device)
    check_scalar(f"{name}[2]", dequant_scale, device)


def record_amax(history: Tensor, amax: Tensor) -> None:
    """Fold an amax into the running step's slot. Idempotent, so the replays of activation checkpointing do no harm.

    fmax drops NaN; Inf is dropped at the end of the step.
    """
    newest = history[0]
    newest.copy_(torch.fmax(newest, amax))


def quantize_operand(
    x: Tensor,
    dtype: torch.dtype,
    scaling: list[Tensor],
    calibrated: bool,
    record: bool,
    margin: int,
    power_of_two: bool,
    transpose: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(q, q_t, dequant_scale) of a (rows, columns) tensor, as a sequence of ops.

    scaling: [] or (amax_history, quant_scale, dequant_scale). calibrated: the scales mean something; else they are made from x.
    record: write what x's amax has to say into scaling.
    """
    if not scaling or not calibrated:
        found = quantize_current.call(x, dtype, margin, power_of_two, transpose, backend=backend)
        q, q_t, amax, new_quant_scale, new_dequant_scale = found
        if scaling and record:
            history, quant_scale, dequant_scale = scaling
            record_amax(history, amax)
            quant_scale.copy_(new_quant_scale)
            dequant_scale.copy_(new_dequant_scale)
        return q, q_t, new_dequant_scale
    history, quant_scale, dequant_scale = scaling
    q, q_t, amax = quantize.call(x, quant_scale, dtype, transpose, backend=backend)
    if record:
        record_amax(history, amax)
    # A copy: the next step changes the buffer in place, perhaps before this step's backward (pipeline parallelism).
    return q, q_t, dequant_scale.clone()
