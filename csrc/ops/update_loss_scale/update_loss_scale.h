// update_loss_scale_: the next loss scale. Contract: mpkernels/ops/update_loss_scale/__init__.py.
#pragma once

#include <cstdint>

namespace mpkernels::update_loss_scale {

// What a training loop keeps between steps.
struct State {
  float loss_scale;
  int32_t growth_tracker;
  int32_t hysteresis_tracker;
};

struct Policy {
  double growth_factor;
  double backoff_factor;
  int64_t growth_interval;
  int32_t hysteresis;
};

State next(State state, bool found_inf, const Policy& policy);

}  // namespace mpkernels::update_loss_scale
