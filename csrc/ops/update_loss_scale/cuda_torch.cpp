#include <torch/csrc/stable/library.h>

#include "host/cuda_binding.h"
#include "ops/update_loss_scale/update_loss_scale_cuda.h"

namespace mpkernels::update_loss_scale {
namespace {

int32_t* tracker_of(const OnDeviceOf& device, const char* name, Tensor& t) {
  device.check(name, t);
  MPK_CHECK(t.scalar_type() == ScalarType::Int && t.numel() == 1, name, " must be one int32");
  return (int32_t*)t.mutable_data_ptr();
}

void bind_cuda(Tensor loss_scale, Tensor growth_tracker, Tensor hysteresis_tracker,
               const Tensor& found_inf, double growth_factor, double backoff_factor,
               int64_t growth_interval, int64_t hysteresis) {
  const OnDeviceOf device(loss_scale);
  device.check_fp32_scalar("loss_scale", loss_scale);
  device.check_fp32_scalar("found_inf", found_inf);
  update_loss_scale_cuda({(float*)loss_scale.mutable_data_ptr(),
                          tracker_of(device, "growth_tracker", growth_tracker),
                          tracker_of(device, "hysteresis_tracker", hysteresis_tracker),
                          (const float*)found_inf.const_data_ptr(),
                          {growth_factor, backoff_factor, growth_interval, (int32_t)hysteresis}},
                         device.stream());
}

}  // namespace
}  // namespace mpkernels::update_loss_scale

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "update_loss_scale(Tensor(a!) loss_scale, Tensor(b!) growth_tracker, Tensor(c!) "
      "hysteresis_tracker, Tensor found_inf, float growth_factor, float backoff_factor, int "
      "growth_interval, int hysteresis) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("update_loss_scale", TORCH_BOX(&mpkernels::update_loss_scale::bind_cuda));
}
