// sgd_update_: one SGD step on FP32 masters. Contract: mpkernels/ops/sgd_update/__init__.py.
#pragma once

#include <vector>

#include "simd/master_update.h"

namespace mpkernels::sgd_update {

// masters and momentum_buffers hold float; momentum_buffers is empty without momentum. params is
// empty, or all BFloat16, or all Half.
struct Lists {
  TensorDataList<void> masters, momentum_buffers;
  std::vector<float*> steps;
  TensorDataList<void> params;
  TensorDataList<const void> grads;
  std::vector<float*> amaxes;  // of the parameters; empty: not wanted
};

struct Hyperparameters {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

void sgd_update_cpu(const Lists& lists, const Hyperparameters& hyper, GradientFactors factors);

}  // namespace mpkernels::sgd_update
