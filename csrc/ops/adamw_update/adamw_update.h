// adamw_update_: one AdamW step on FP32 masters. Contract: mpkernels/ops/adamw_update/__init__.py.
#pragma once

#include <vector>

#include "simd/master_update.h"

namespace mpkernels::adamw_update {

// masters, exp_avgs and exp_avg_sqs hold float. params is empty, or all BFloat16, or all Half.
struct Lists {
  TensorDataList<void> masters, exp_avgs, exp_avg_sqs;
  std::vector<float*> steps;
  TensorDataList<void> params;
  TensorDataList<const void> grads;
  std::vector<float*> amaxes;  // of the parameters; empty: not wanted
};

struct Hyperparameters {
  double lr, beta1, beta2, eps, weight_decay;
};

void adamw_update_cpu(const Lists& lists, const Hyperparameters& hyper, GradientFactors factors);

}  // namespace mpkernels::adamw_update
