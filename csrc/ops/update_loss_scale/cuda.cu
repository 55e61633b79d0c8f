// 16 bytes read, 12 written: as cpu.cpp's next(), so that nothing of a step comes to the host.
#include "ops/update_loss_scale/update_loss_scale_cuda.h"

extern "C" __global__ void __launch_bounds__(1)
    mpk_update_loss_scale(const __grid_constant__ mpkernels::update_loss_scale::Params p) {
  const float loss_scale = *p.loss_scale;
  const int32_t patience = *p.hysteresis_tracker;
  const uint32_t clean_steps = (uint32_t)*p.growth_tracker + 1u;  // wraps, as torch's does
  if (*p.found_inf != 0.0f) {
    const int32_t left = max(patience, 1) - 1;
    *p.hysteresis_tracker = left;
    *p.growth_tracker = 0;
    if (left == 0) *p.loss_scale = (float)__dmul_rn((double)loss_scale, p.policy.backoff_factor);
    return;
  }
  const bool grows = (int32_t)clean_steps == p.policy.growth_interval;
  const float grown = (float)__dmul_rn((double)loss_scale, p.policy.growth_factor);
  *p.hysteresis_tracker = p.policy.hysteresis;
  *p.growth_tracker = grows ? 0 : (int32_t)clean_steps;
  if (grows && isfinite(grown)) *p.loss_scale = grown;
}

namespace mpkernels::update_loss_scale {

void update_loss_scale_cuda(const Params& params, Stream stream) {
  static const Kernel kernel = MPK_KERNEL_ENTRY(mpk_update_loss_scale);
  launch(kernel, {{1}, {1}}, params, stream);
}

}  // namespace mpkernels::update_loss_scale
