// update_loss_scale_ on a GPU: one thread. Contract: mpkernels/ops/update_loss_scale/__init__.py.
#pragma once

#include "host/launch.h"
#include "ops/update_loss_scale/update_loss_scale.h"

namespace mpkernels::update_loss_scale {

struct Params {
  float* loss_scale;
  int32_t* growth_tracker;
  int32_t* hysteresis_tracker;
  const float* found_inf;
  Policy policy;
};

void update_loss_scale_cuda(const Params& params, Stream stream);

}  // namespace mpkernels::update_loss_scale
