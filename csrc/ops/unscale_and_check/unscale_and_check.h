// unscale_and_check_: g *= inv_loss_scale, and whether any g is Inf or NaN.
// Contract: mpkernels/ops/unscale_and_check/__init__.py.
#pragma once

#include "simd/multi_tensor.h"

namespace mpkernels::unscale_and_check {

// True if any gradient is Inf or NaN, before or after.
bool unscale_and_check_cpu(const TensorDataList<void>& grads, float inv_loss_scale);

// The check alone, on elements [begin, end) of one gradient.
bool any_non_finite(const TensorData<const void>& grad, int64_t begin, int64_t end,
                    float inv_loss_scale);

}  // namespace mpkernels::unscale_and_check
