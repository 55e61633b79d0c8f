#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "ops/update_loss_scale/update_loss_scale.h"

namespace mpkernels::update_loss_scale {
namespace {

int32_t* tracker_of(const char* name, Tensor& t) {
  MPK_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Int && t.numel() == 1, name,
            " must be one int32 on the CPU");
  return (int32_t*)t.mutable_data_ptr();
}

void bind_cpu(Tensor loss_scale, Tensor growth_tracker, Tensor hysteresis_tracker,
              const Tensor& found_inf, double growth_factor, double backoff_factor,
              int64_t growth_interval, int64_t hysteresis) {
  check_fp32_scalar("loss_scale", loss_scale);
  check_fp32_scalar("found_inf", found_inf);
  int32_t* const growth = tracker_of("growth_tracker", growth_tracker);
  int32_t* const patience = tracker_of("hysteresis_tracker", hysteresis_tracker);
  float* const factor = (float*)loss_scale.mutable_data_ptr();
  const bool bad = *(const float*)found_inf.const_data_ptr() != 0.0f;
  const State after = next({*factor, *growth, *patience}, bad,
                           {growth_factor, backoff_factor, growth_interval, (int32_t)hysteresis});
  *factor = after.loss_scale, *growth = after.growth_tracker, *patience = after.hysteresis_tracker;
}

}  // namespace
}  // namespace mpkernels::update_loss_scale

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "update_loss_scale(Tensor(a!) loss_scale, Tensor(b!) growth_tracker, Tensor(c!) "
      "hysteresis_tracker, Tensor found_inf, float growth_factor, float backoff_factor, int "
      "growth_interval, int hysteresis) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("update_loss_scale", TORCH_BOX(&mpkernels::update_loss_scale::bind_cpu));
}
