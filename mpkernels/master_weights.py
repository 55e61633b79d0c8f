"""What adamw_update_ and sgd_update_ share: the contract of their tensor lists, and the gradient as an update sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter

import torch
from torch import Tensor

from .checks import check_dtype, check_scalar
from .formats import HIGH_PRECISION_DTYPES
from .layout import in_memory_order

COPY_DTYPES = (torch.bfloat16, torch.float16)  # of the low-precision parameters
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm

_dtype, _device, _shape, _layout = attrgetter("dtype"), attrgetter("device"), attrgetter("shape"), attrgetter("layout")


def check_update(
    masters: list[Tensor],
    states: Sequence[tuple[str, list[Tensor]]],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    max_grad_norm: float,
    scalars: Mapping[str, Tensor | None],
    param_amaxes: list[Tensor] | None,
) -> None:
    """Raises unless the lists match one another. `states` are named lists that look like the masters; `scalars` has grad_norm.

    A step of a large model passes hundreds of tensors, so each property is one pass of C-level `map` over a list, and only a
    refusal looks for the culprit.
    """
    if not max_grad_norm >= 0:
        raise ValueError(f"max_grad_norm must be >= 0 (0 does not clip), got {max_grad_norm}")
    if (scalars["grad_norm"] is None) != (max_grad_norm == 0):
        given = "no grad_norm" if scalars["grad_norm"] is None else "a grad_norm"
        raise ValueError(f"grad_norm and max_grad_norm belong together, got {given} and max_grad_norm {max_grad_norm}")
    copies = (("params", params),) if params else ()
    like_masters = (*states, *copies, ("grads", grads))
    of_tensor = (("steps", steps),) if param_amaxes is None else (("steps", steps), ("param_amaxes", param_amaxes))
    for name, tensors in (*like_masters, *of_tensor):
        if len(tensors) != len(masters):
            raise ValueError(f"{name} must hold one tensor for each of the {len(masters)} masters, got {len(tensors)}")
    if not masters:
        return
    for name, tensors in (("masters", masters), *states, *of_tensor):
        _check_dtypes(name, tensors, (torch.float32,))
    _check_dtypes("params", params, COPY_DTYPES)
    _check_dtypes("grads", grads, HIGH_PRECISION_DTYPES)
    if set(map(_layout, grads)) != {torch.strided}:
        i = next(i for i, grad in enumerate(grads) if grad.layout is not torch.strided)
        raise TypeError(f"grads[{i}] must be a strided tensor, got layout {grads[i].layout}")
    shapes = list(map(_shape, masters))
    for name, tensors in like_masters:
        _check_shapes(name, tensors, shapes, "the shape of its master")
    for name, tensors in of_tensor:
        _check_shapes(name, tensors, [torch.Size()] * len(masters), "shape ()")
    _check_devices((("masters", masters), *like_masters, *of_tensor))
    _check_layouts(masters, (*states, *copies))
    for name, scalar in scalars.items():
        if scalar is not None:
            check_scalar(name, scalar, masters[0].device)


def _check_dtypes(name: str, tensors: list[Tensor], allowed: tuple[torch.dtype, ...]) -> None:
    """All of one dtype, and that an allowed one."""
    found = set(map(_dtype, tensors))
    if not found or (len(found) == 1 and found.issubset(allowed)):
        return
    for i, tensor in enumerate(tensors):
        check_dtype(f"{name}[{i}]", tensor.dtype, allowed)
        if tensor.dtype != tensors[0].dtype:
            raise TypeError(f"{name} must all have the dtype of {name}[0], {tensors[0].dtype}, got {tensor.dtype} at {i}")


def _check_shapes(name: str, tensors: list[Tensor], shapes: list[torch.Size], wanted: str) -> None:
    if list(map(_shape, tensors)) != shapes:
        i = next(i for i, tensor in enumerate(tensors) if tensor.shape != shapes[i])
        raise ValueError(f"{name}[{i}] must have {wanted}, {tuple(shapes[i])}, got {tuple(tensors[i].shape)}")


def _check_devices(lists: Sequence[tuple[str, list[Tensor]]]) -> None:
    device = lists[0][1][0].device
    if set(map(_device, chain.from_iterable(tensors for _, tensors in lists))) != {device}:
        for name, tensors in lists:
            for i, tensor in enumerate(tensors):
                if tensor.device != device:
                    raise ValueError(f"{name}[{i}] must be on {device} like masters[0], got {tensor.device}")


def _check_layouts(masters: list[Tensor], lists: Sequence[tuple[str, list[Tensor]]]) -> None:
    """Masters without holes or overlap, and all that is written beside them in the same order."""
    if all(map(torch.Tensor.is_contiguous, chain(masters, *(tensors for _, tensors in lists)))):
        return
    for i, master in enumerate(masters):
        if in_memory_order(master) is None:
            shape, strides = tuple(master.shape), master.stride()
            raise ValueError(f"masters[{i}] must be dense without overlap, got shape {shape}, strides {strides}")
        for name, tensors in lists:
            if tensors[i].stride() != master.stride():
                raise ValueError(f"{name}[{i}] must have the strides of its master, {master.stride()}, got {tensors[i].stride()}")


def contiguous_lists(grads: list[Tensor], *written: list[Tensor]) -> list[list[Tensor]]:
    """The written lists (masters first) and the gradients as contiguous tensors, so that one index runs over all of them.

    What is written is viewed in the order of its memory. A gradient with other strides than its master is copied.
    """
    if all(map(torch.Tensor.is_contiguous, chain(grads, *written))):
        return [*written, grads]
    aligned = [
        grad if grad.stride() == master.stride() else torch.empty_like(master, dtype=grad.dtype).copy_(grad)
        for master, grad in zip(written[0], grads, strict=True)
    ]
    return [[_in_memory_order(tensor) for tensor in tensors] for tensors in (*written, aligned)]


def _in_memory_order(dense: Tensor) -> Tensor:
    view = in_memory_order(dense)
    assert view is not None  # by check_update
    return view


def step_workspace(steps: list[Tensor]) -> Tensor:
    """Where the first kernel of a CUDA update leaves the scalars of the step for the second: 32 bytes a tensor."""
    return steps[0].new_empty(8 * len(steps))


def clip_factor(grad_norm: Tensor | None, max_grad_norm: float) -> Tensor | float:
    """The second factor of every gradient: min(1, max_grad_norm / (grad_norm + 1e-6)), each operation rounded to FP32."""
    if grad_norm is None:
        return 1.0
    return (torch.full_like(grad_norm, max_grad_norm) / (grad_norm + CLIP_EPSILON)).clamp(max=1.0)


def update_gradient(grad: Tensor, inv_loss_scale: Tensor | None, clip: Tensor | float, maximize: bool) -> Tensor:
    """float32(grad) * inv_loss_scale * clip, from left to right, negated to maximize."""
    g = grad.float() * (1.0 if inv_loss_scale is None else inv_loss_scale) * clip
    return -g if maximize else g


def largest_magnitude(param: Tensor) -> Tensor:
    """What param_amaxes get: `amax` of the parameter."""
    return param.float().abs().amax() if param.numel() else param.new_zeros((), dtype=torch.float32)


def exact_power(base: float, exponent: Tensor) -> Tensor:
    """`base ** exponent` in float64 by repeated squaring, for whole 0 <= exponent <= 2^24.

    Only multiplications, in a fixed order: `pow` differs in the last place from one mathematical library to the next.
    """
    result = torch.ones_like(exponent, dtype=torch.float64)
    remaining, square = exponent.long(), base
    for _ in range(25):  # the bits of 2^24, where a float32 step counter stops
        result = torch.where(remaining % 2 == 1, result * square, result)
        remaining, square = remaining // 2, square * square
    return result
