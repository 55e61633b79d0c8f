"""update_delayed_scales_: at the end of a step, amax histories -> new scales, and room for the next step's amax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import check_device, check_scalar
from ...dispatch import Op
from ...formats import E4M3, E5M2
from ..compute_scale import check_margin


def _check(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    fp8_maxima: Sequence[float],
    margin: int,
    power_of_two: bool,
    most_recent: bool,
) -> None:
    device = step_ended.device
    check_scalar("step_ended", step_ended, device)
    lengths = {
        "quant_scales": len(quant_scales),
        "dequant_scales": len(dequant_scales),
        "fp8_maxima": len(fp8_maxima),
    }
    for name, length in lengths.items():
        if length != len(amax_histories):
            raise ValueError(f"{name} must have one entry per history ({len(amax_histories)}), got {length}")
    for i, history in enumerate(amax_histories):
        if history.dtype is not torch.float32 or history.dim() != 1 or history.shape[0] == 0 or not history.is_contiguous():
            raise ValueError(
                f"amax_histories[{i}] must be a contiguous float32 tensor of shape (length >= 1,), "
                f"got {history.dtype} of shape {tuple(history.shape)}"
            )
        check_device(f"amax_histories[{i}]", history, device)
        check_scalar(f"quant_scales[{i}]", quant_scales[i], device)
        check_scalar(f"dequant_scales[{i}]", dequant_scales[i], device)
        if fp8_maxima[i] not in (E4M3.max, E5M2.max):
            raise ValueError(f"fp8_maxima[{i}] must be {E4M3.max:g} (E4M3) or {E5M2.max:g} (E5M2), got {fp8_maxima[i]}")
    check_margin(margin)


def _example(device: torch.device) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, list[float]]:
    history = torch.tensor([7.0, 2.0], device=device)
    one = torch.ones((), device=device)
    return [history], [one.clone()], [one.clone()], one, [E4M3.max]


op = Op(
    "update_delayed_scales_(Tensor(a!)[] amax_histories, Tensor(b!)[] quant_scales, Tensor(c!)[] dequant_scales, "
    "Tensor(d!) step_ended, float[] fp8_maxima, int margin=0, bool power_of_two=False, bool most_recent=False) -> ()",
    check=_check,
    example=_example,
    package=__name__,
)


def update_delayed_scales_(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    fp8_maxima: Sequence[float],
    *,
    margin: int = 0,
    power_of_two: bool = False,
    most_recent: bool = False,
    backend: str | None = None,
) -> None:
    """If a step has ended: `quant_scale = fp8_max / (max(amax_history) * 2^margin)`, then shift the history by one, in place.

    For each history, where `step_ended` is not 0 (otherwise nothing at all is written):

        history[0] = history[0] if finite else 0
        amax = max(history), or history[0] if most_recent
        quant_scale, dequant_scale = compute_scale(amax, fp8_max, margin, power_of_two, previous=quant_scale)
        history[1:] = history[:-1];  history[0] = 0

    and at last `step_ended = 0`.

    Args:
        amax_histories: float32 (length,) each, newest first; slot 0 collects the running step.
        quant_scales, dequant_scales: () float32 each.
        step_ended: () float32; set by whoever knows that the step is over (a backward). Read on the device: no host sync.
        fp8_maxima: largest finite value of each tensor's format: 448 (E4M3) or 57344 (E5M2).
        margin, power_of_two: as for compute_scale.
        most_recent: use the newest amax instead of the largest.
        backend: None picks the first able backend; a name runs that one or raises.

    Numerics:
        A history of zeros, and an Inf or NaN in the running step, leave the scale as it was. Precision family: exact.

    Raises:
        ValueError, TypeError: lists of different lengths, other dtypes, shapes or devices; nothing is written then.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads and writes the histories once; one kernel for all of them; no device synchronisation.

    Source:
        TransformerEngine's delayed scaling recipe (docs: "Delayed Scaling"), with the step boundary on the device.

    Example:
        >>> import torch, mpkernels as mp
        >>> history, quant_scale, dequant_scale = torch.tensor([7.0, 2.0]), torch.tensor(1.0), torch.tensor(1.0)
        >>> mp.update_delayed_scales_([history], [quant_scale], [dequant_scale], torch.tensor(1.0), [448.0])
        >>> history, quant_scale
        (tensor([0., 7.]), tensor(64.))
    """
    op.torch_op(
        amax_histories,
        quant_scales,
        dequant_scales,
        step_ended,
        fp8_maxima,
        margin,
        power_of_two,
        most_recent,
        backend=backend,
    )
