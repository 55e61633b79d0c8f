"""What the Triton kernels of adamw_update_ and sgd_update_ share."""

from __future__ import annotations

import triton
import triton.language as tl


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
