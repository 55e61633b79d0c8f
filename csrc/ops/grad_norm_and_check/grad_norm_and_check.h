// grad_norm_and_check: |inv_loss_scale| * sqrt(sum g^2), and whether any g is Inf or NaN.
// Contract: mpkernels/ops/grad_norm_and_check/__init__.py.
#pragma once

#include "simd/multi_tensor.h"

namespace mpkernels::grad_norm_and_check {

struct Result {
  float norm;
  bool found_inf;
};

Result grad_norm_and_check_cpu(const TensorDataList<const void>& grads, float inv_loss_scale);

}  // namespace mpkernels::grad_norm_and_check
