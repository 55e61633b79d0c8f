"""What the Triton kernels of adamw_update_ and sgd_update_ share."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_device import magnitude_bits


@triton.jit
def gradient_factors(inv_loss_scale, grad_norm, max_grad_norm, MAXIMIZE: tl.constexpr, CLIP_EPSILON: tl.constexpr):
    """(inv_loss_scale, clip) as csrc/simd/master_update.h has them; to maximize, clip is negative."""
    inverse = tl.full((), 1.0, tl.float32) if inv_loss_scale is None else tl.load(inv_loss_scale)
    clip = tl.full((), 1.0, tl.float32)
    if grad_norm is not None:
        ratio = tl.div_rn(max_grad_norm, tl.load(grad_norm) + CLIP_EPSILON)
        clip = tl.where(ratio > 1.0, 1.0, ratio)  # NaN stays NaN
    return inverse, -clip if MAXIMIZE else clip


@triton.jit
def skipped(found_inf):
    return False if found_inf is None else tl.load(found_inf) != 0.0


@triton.jit
def clear_amaxes(rows, tensor, inside, AMAX: tl.constexpr, COLUMNS: tl.constexpr):
    """The amaxes that column AMAX points to become 0. None: there are none."""
    if AMAX is not None:
        amax = tl.load(rows + tensor * COLUMNS + AMAX, mask=inside, other=0).to(tl.pointer_type(tl.float32))
        tl.store(amax, tl.zeros_like(tensor).to(tl.float32), mask=inside)


@triton.jit
def raise_amax(row, largest, AMAX: tl.constexpr, COPY: tl.constexpr):
    """The amax of a tensor's parameter, from the largest magnitudes of its masters: rounding keeps their order."""
    most = tl.max(largest, 0).to(tl.float32, bitcast=True)
    bits = magnitude_bits(most.to(COPY) if COPY is not None else most)
    tl.atomic_max(tl.load(row + AMAX).to(tl.pointer_type(tl.int32)), bits, sem="relaxed")
