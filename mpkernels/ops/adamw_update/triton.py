"""Triton kernels: the float64 factors of each tensor (one program for 128 tensors, which also counts the step), then the update.

Bias corrections are float64 powers; computed once a tensor, they cost nothing where float64 is slow. The update has the
contract's operations in its order, each rounded once, so masters and moments are those of the reference to the bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...master_weights import CLIP_EPSILON, contiguous_lists
from ...triton_device import POINTED, as_float64, float64_bits, magnitude_bits
from ...triton_master_update import clear_amaxes, gradient_factors, raise_amax, skipped
from ...triton_tables import CHUNK, HEADER, table_of

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")
BLOCK = 1024  # 4 elements for each of 256 threads: more, and mixed 16- and 32-bit accesses go through shared memory
FACTOR_BLOCK = 128
LARGEST_STEP_BITS = 25  # 2^24, where a float32 step counter stops


@triton.jit
def power(base, exponent, BITS: tl.constexpr):
    """Base ** exponent in float64, by repeated squaring from the least significant bit."""
    result = tl.full(exponent.shape, 1.0, tl.float64)
    remaining = exponent
    for _ in range(BITS):
        result = tl.where(remaining % 2 == 1, result * base, result)
        remaining = remaining // 2
        base = base * base
    return result


@triton.jit(do_not_specialize=["tensors", "lr", "beta1", "beta2", "weight_decay"], do_not_specialize_on_alignment=["rows"])
def factors_kernel(
    rows,
    factors,
    lr_tensor,
    found_inf,
    tensors,
    lr: tl.int64,
    beta1: tl.int64,
    beta2: tl.int64,
    weight_decay: tl.int64,
    STEP: tl.constexpr,
    AMAX: tl.constexpr,
    COLUMNS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """factors[i] = decay, step_size, inv_sqrt_bias2 of tensor i, whose counter in column STEP goes up by one; amaxes become 0."""
    tensor = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = tensor < tensors
    counter = tl.load(rows + tensor * COLUMNS + STEP, mask=inside, other=0).to(tl.pointer_type(tl.float32))
    t = tl.load(counter, mask=inside, other=0.0) + 1.0
    rate = as_float64(lr) if lr_tensor is None else tl.load(lr_tensor).to(tl.float64)
    count = t.to(tl.int32)
    decay = 1.0 - rate * as_float64(weight_decay)
    step_size = rate / (1.0 - power(as_float64(beta1), count, BITS))
    inv_sqrt_bias2 = 1.0 / tl.sqrt(1.0 - power(as_float64(beta2), count, BITS))
    tl.store(factors + tensor * 3, tl.full((BLOCK,), 0.0, tl.float32) + decay.to(tl.float32), mask=inside)
    tl.store(factors + tensor * 3 + 1, step_size.to(tl.float32), mask=inside)
    tl.store(factors + tensor * 3 + 2, inv_sqrt_bias2.to(tl.float32), mask=inside)
    if not skipped(found_inf):
        tl.store(counter, t, mask=inside)
        clear_amaxes(rows, tensor, inside, AMAX, COLUMNS)


@triton.jit
def adamw(p, m, v, g, decay, step_size, inv_sqrt_bias2, beta2, lerp_weight, rest1, rest2, eps, LERP_FROM_OLD: tl.constexpr):
    """New (p, m, v). rest1 = lerp_weight - 1, rest2 = 1 - beta2, in float32."""
    if LERP_FROM_OLD:
        m = m + lerp_weight * (g - m)
    else:
        m = g + rest1 * (g - m)
    v = v * beta2 + (rest2 * g) * g
    p = p * decay - tl.div_rn(step_size * m, tl.sqrt_rn(v) * inv_sqrt_bias2 + eps)
    return p, m, v


@triton.jit(do_not_specialize_on_alignment=["rows", "chunks"])
def adamw_kernel(
    rows,
    chunks,
    factors,
    inv_loss_scale,
    grad_norm,
    found_inf,
    max_grad_norm,
    beta2,
    lerp_weight,
    rest1,
    rest2,
    eps,
    GRAD: tl.constexpr,
    COPY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LERP_FROM_OLD: tl.constexpr,
    CLIP_EPSILON: tl.constexpr,
    HEADER: tl.constexpr,
    COLUMNS: tl.constexpr,
    AMAX: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Columns of the table: master, exp_avg, exp_avg_sq, grad, step, param (if COPY is a type), amax (AMAX if there is one)."""
    if skipped(found_inf):
        return
    inverse, clip = gradient_factors(inv_loss_scale, grad_norm, max_grad_norm, MAXIMIZE, CLIP_EPSILON)
    chunk = tl.program_id(0)
    tensor = tl.load(chunks + chunk)
    row = rows + tensor * COLUMNS
    n, start = tl.load(row), (chunk - tl.load(row + 1)) * CHUNK
    decay = tl.load(factors + tensor * 3)
    step_size = tl.load(factors + tensor * 3 + 1)
    inv_sqrt_bias2 = tl.load(factors + tensor * 3 + 2)
    master = tl.load(row + HEADER).to(tl.pointer_type(tl.float32))
    exp_avg = tl.load(row + HEADER + 1).to(tl.pointer_type(tl.float32))
    exp_avg_sq = tl.load(row + HEADER + 2).to(tl.pointer_type(tl.float32))
    grad = tl.load(row + HEADER + 3).to(tl.pointer_type(GRAD))
    largest = tl.zeros((BLOCK,), tl.int32)
    if (tl.load(row + 2) != 0) & (start + CHUNK <= n):
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            g = tl.load(tl.multiple_of(grad, 16) + index).to(tl.float32) * inverse * clip
            p = tl.load(tl.multiple_of(master, 16) + index)
            m = tl.load(tl.multiple_of(exp_avg, 16) + index)
            v = tl.load(tl.multiple_of(exp_avg_sq, 16) + index)
            p, m, v = adamw(p, m, v, g, decay, step_size, inv_sqrt_bias2, beta2, lerp_weight, rest1, rest2, eps, LERP_FROM_OLD)
            tl.store(tl.multiple_of(master, 16) + index, p)
            if AMAX is not None:
                largest = tl.maximum(largest, magnitude_bits(p))
            tl.store(tl.multiple_of(exp_avg, 16) + index, m)
            tl.store(tl.multiple_of(exp_avg_sq, 16) + index, v)
            if COPY is not None:
                param = tl.load(row + HEADER + 5).to(tl.pointer_type(COPY))
                tl.store(tl.multiple_of(param, 16) + index, p.to(COPY))
    else:
        for at in range(0, CHUNK, BLOCK):
            index = start + at + tl.arange(0, BLOCK)
            inside = index < n
            g = tl.load(grad + index, mask=inside, other=0.0).to(tl.float32) * inverse * clip
            p = tl.load(master + index, mask=inside, other=0.0)
            m = tl.load(exp_avg + index, mask=inside, other=0.0)
            v = tl.load(exp_avg_sq + index, mask=inside, other=0.0)
            p, m, v = adamw(p, m, v, g, decay, step_size, inv_sqrt_bias2, beta2, lerp_weight, rest1, rest2, eps, LERP_FROM_OLD)
            tl.store(master + index, p, mask=inside)
            if AMAX is not None:
                largest = tl.maximum(largest, tl.where(inside, magnitude_bits(p), 0))
            tl.store(exp_avg + index, m, mask=inside)
            tl.store(exp_avg_sq + index, v, mask=inside)
            if COPY is not None:
                param = tl.load(row + HEADER + 5).to(tl.pointer_type(COPY))
                tl.store(param + index, p.to(COPY), mask=inside)
    if AMAX is not None:
        raise_amax(row, largest, AMAX, COPY)


def why_not(masters: list[Tensor], *_rest: object) -> str | None:
    return triton_launch.why_not("masters", masters[0]) if masters else None


@torch.no_grad()
def run(
    masters: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
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
    masters, exp_avgs, exp_avg_sqs, params, grads = contiguous_lists(grads, masters, exp_avgs, exp_avg_sqs, params)
    amaxes = [] if param_amaxes is None else [param_amaxes]
    columns = [masters, exp_avgs, exp_avg_sqs, grads, steps, *([params] if params else []), *amaxes]
    table = table_of(columns, [m.numel() for m in masters], masters[0].device)
    behind = [t for column in columns for t in column]
    width = HEADER + len(columns)
    amax = width - 1 if amaxes else None
    factors = masters[0].new_empty(3 * len(masters), dtype=torch.float32)
    numbers = [float64_bits(x) for x in (lr, beta1, beta2, weight_decay)]
    triton_launch.launch(
        factors_kernel,
        triton_launch.cdiv(len(masters), FACTOR_BLOCK),
        (table.rows, factors, lr_tensor, found_inf, len(masters), *numbers),
        {"STEP": HEADER + 4, "AMAX": amax, "COLUMNS": width, "BITS": LARGEST_STEP_BITS, "BLOCK": FACTOR_BLOCK},
        behind=behind,
    )
    if table.launches == 0:
        return
    lerp_weight = torch.tensor(1 - beta1, dtype=torch.float32).item()
    triton_launch.launch(
        adamw_kernel,
        table.launches,
        (
            table.rows,
            table.chunks,
            factors,
            inv_loss_scale,
            grad_norm,
            found_inf,
            float(max_grad_norm),
            beta2,
            lerp_weight,
            lerp_weight - 1,
            1 - beta2,
            eps,
        ),
        {
            "GRAD": POINTED[grads[0].dtype],
            "COPY": POINTED[params[0].dtype] if params else None,
            "MAXIMIZE": maximize,
            "LERP_FROM_OLD": lerp_weight < 0.5,
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
