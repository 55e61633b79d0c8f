// A history is at most some thousand floats: one pass for the maximum, one memmove.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/compute_scale/compute_scale.h"
#include "ops/update_delayed_scales/update_delayed_scales.h"

namespace mpkernels::update_delayed_scales {

void update_delayed_scales_cpu(const Params& p) {
  float* const history = p.amax_history;
  if (!std::isfinite(history[0])) history[0] = 0;
  const float amax = p.most_recent ? history[0] : *std::max_element(history, history + p.length);
  const compute_scale::Scales scales = compute_scale::compute_scale_cpu(
      amax, p.format, p.margin, p.power_of_two, /*previous=*/p.quant_scale);
  *p.quant_scale = scales.quant;
  *p.dequant_scale = scales.dequant;
  memmove(history + 1, history, (p.length - 1) * sizeof(float));
  history[0] = 0;
}

}  // namespace mpkernels::update_delayed_scales
