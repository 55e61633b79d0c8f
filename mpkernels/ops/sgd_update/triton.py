"""Triton kernels: the step counters (one program for 128 tensors), then the update, whose operations are the contract's."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...master_weights import CLIP_EPSILON, contiguous_lists
from ...triton_device import POINTED, magnitude_bits
from ...triton_master_update import clear_amaxes, gradient_factors, raise_amax, skipped
from ...triton_tables import CHUNK, HEADER, table_of
from ..adamw_update.triton import BLOCK, FACTOR_BLOCK
from ..adamw_update.triton import TARGETS as TARGETS


@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["rows"])
def count_kernel(
    rows,
    first_steps,
    found_inf,
    tensors,
    STEP: tl.constexpr,
    AMAX: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """first_steps[i] = whether tensor i has never been updated; its counter in column STEP goes up by one; amaxes become 0."""
    tensor = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = tensor < tensors
    counter = tl.load(rows + tensor * COLUMNS + STEP, mask=inside, other=0).to(tl.pointer_type(tl.float32))
    done = tl.load(counter, mask=inside, other=0.0)
    tl.store(first_steps + tensor, (done == 0.0).to(tl.int32), mask=inside)
    if not skipped(found_inf):
        tl.store(counter, done + 1.0, mask=inside)
        clear_amaxes(rows, tensor, inside, AMAX, COLUMNS)


@triton.jit
def sgd(
    p,
    b,
    g,
    is_first,
    rate,
    momentum,
    undamped,
    weight_decay,
    DECAYS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
):
    """New (p, b). undamped = 1 - dampening in float32."""
    if DECAYS:
        g = g + weight_decay * p
    direction = g
    if MOMENTUM:
        b = tl.where(is_first, g, b * momentum + undamped * g)
        direction = g + momentum * b if NESTEROV else b
    return p - rate * direction, b


@triton.jit(do_not_specialize_on_alignment=["rows", "chunks"])
def sgd_kernel(
    rows,
    chunks,
    first_steps,
    lr_tensor,
    inv_loss_scale,
    grad_norm,
    found_inf,
    max_grad_norm,
    lr,
    momentum,
    undamped,
    weight_decay,
    GRAD: tl.constexpr,
    COPY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DECAYS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    CLIP_EPSILON: tl.constexpr,
    HEADER: tl.constexpr,
    COLUMNS: tl.constexpr,
    AMAX: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Columns of the table: master, grad, step, then momentum buffer (if MOMENTUM), amax (AMAX), param (if COPY is a type)."""
    if skipped(found_inf):
        return
    inverse, clip = gradient_factors(inv_loss_scale, grad_norm, max_grad_norm, MAXIMIZE, CLIP_EPSILON)
    rate = lr if lr_tensor is None else tl.load(lr_tensor)
    chunk = tl.program_id(0)
    tensor = tl.load(chunks + chunk)
    row = rows + tensor * COLUMNS
    n, start = tl.load(row), (chunk - tl.load(row + 1)) * CHUNK
    is_first = tl.load(first_steps + tensor) != 0
    master = tl.load(row + HEADER).to(tl.pointer_type(tl.float32))
    grad = tl.load(row + HEADER + 1).to(tl.pointer_type(GRAD))
    buffer = tl.load(row + HEADER + (3 if MOMENTUM else 0)).to(tl.pointer_type(tl.float32))
    largest = tl.zeros((BLOCK,), tl.int32)
    if (tl.load(row + 2) != 0) & (start + CHUNK <= n):
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            g = tl.load(tl.multiple_of(grad, 16) + index).to(tl.float32) * inverse * clip
            p = tl.load(tl.multiple_of(master, 16) + index)
            b = tl.load(tl.multiple_of(buffer, 16) + index) if MOMENTUM else g
            p, b = sgd(p, b, g, is_first, rate, momentum, undamped, weight_decay, DECAYS, MOMENTUM, NESTEROV)
            tl.store(tl.multiple_of(master, 16) + index, p)
            if AMAX is not None:
                largest = tl.maximum(largest, magnitude_bits(p))
            if MOMENTUM:
                tl.store(tl.multiple_of(buffer, 16) + index, b)
            if COPY is not None:
                param = tl.load(row + COLUMNS - 1).to(tl.pointer_type(COPY))
                tl.store(tl.multiple_of(param, 16) + index, p.to(COPY))
    else:
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            inside = index < n
            g = tl.load(grad + index, mask=inside, other=0.0).to(tl.float32) * inverse * clip
            p = tl.load(master + index, mask=inside, other=0.0)
            b = tl.load(buffer + index, mask=inside, other=0.0) if MOMENTUM else g
            p, b = sgd(p, b, g, is_first, rate, momentum, undamped, weight_decay, DECAYS, MOMENTUM, NESTEROV)
            tl.store(master + index, p, mask=inside)
            if AMAX is not None:
                largest = tl.maximum(largest, tl.where(inside, magnitude_bits(p), 0))
            if MOMENTUM:
                tl.store(buffer + index, b, mask=inside)
            if COPY is not None:
                param = tl.load(row + COLUMNS - 1).to(tl.pointer_type(COPY))
                tl.store(param + index, p.to(COPY), mask=inside)
    if AMAX is not None:
        raise_amax(row, largest, AMAX, COPY)


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    return triton_launch.why_not("masters", masters[0]) if masters else None


@torch.no_grad()
def run(
    masters: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool = False,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    inv_loss_scale: Tensor | None = None,
    grad_norm: Tensor | None = None,
    max_grad_norm: float = 0.0,
    found_inf: Tensor | None = None,
    param_amaxes: list[Tensor] | None = None,
) -> None:
    if not masters:
        return
    masters, momentum_buffers, params, grads = contiguous_lists(grads, masters, momentum_buffers, params)
    columns = [masters, grads, steps, *([momentum_buffers] if momentum else [])]
    amax = None if param_amaxes is None else HEADER + len(columns)
    columns += [*([] if param_amaxes is None else [param_amaxes]), *([params] if params else [])]
    table = table_of(columns, [m.numel() for m in masters], masters[0].device)
    behind = [t for column in columns for t in column]
    width = HEADER + len(columns)
    first_steps = torch.empty(len(masters), dtype=torch.int32, device=masters[0].device)
    triton_launch.launch(
        count_kernel,
        triton_launch.cdiv(len(masters), FACTOR_BLOCK),
        (table.rows, first_steps, found_inf, len(masters)),
        {"STEP": HEADER + 2, "AMAX": amax, "COLUMNS": width, "BLOCK": FACTOR_BLOCK},
        behind=behind,
    )
    if table.launches == 0:
        return
    triton_launch.launch(
        sgd_kernel,
        table.launches,
        (
            table.rows,
            table.chunks,
            first_steps,
            lr_tensor,
            inv_loss_scale,
            grad_norm,
            found_inf,
            float(max_grad_norm),
            lr,
            momentum,
            1 - dampening,
            weight_decay,
        ),
        {
            "GRAD": POINTED[grads[0].dtype],
            "COPY": POINTED[params[0].dtype] if params else None,
            "MAXIMIZE": maximize,
            "DECAYS": weight_decay != 0,
            "MOMENTUM": momentum != 0,
            "NESTEROV": nesterov,
            "CLIP_EPSILON": CLIP_EPSILON,
            "HEADER": HEADER,
            "COLUMNS": width,
            "AMAX": amax,
            "CHUNK": CHUNK,
            "BLOCK": BLOCK,
        },
        behind=behind,
        num_warps=8,
    )
