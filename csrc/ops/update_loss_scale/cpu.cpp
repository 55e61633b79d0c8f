#include <algorithm>
#include <cmath>

#include "ops/update_loss_scale/update_loss_scale.h"

namespace mpkernels::update_loss_scale {

State next(State state, bool found_inf, const Policy& policy) {
  if (found_inf) {
    state.hysteresis_tracker = std::max(state.hysteresis_tracker, 1) - 1;
    state.growth_tracker = 0;
    if (state.hysteresis_tracker == 0)
      state.loss_scale = (float)(state.loss_scale * policy.backoff_factor);
    return state;
  }
  state.hysteresis_tracker = policy.hysteresis;
  state.growth_tracker = (int32_t)((uint32_t)state.growth_tracker + 1u);  // wraps, as torch's does
  if (state.growth_tracker == policy.growth_interval) {
    const float grown = (float)(state.loss_scale * policy.growth_factor);
    if (std::isfinite(grown)) state.loss_scale = grown;
    state.growth_tracker = 0;
  }
  return state;
}

}  // namespace mpkernels::update_loss_scale
