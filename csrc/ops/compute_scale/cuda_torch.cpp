#include <torch/csrc/stable/library.h>

#include <optional>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "ops/compute_scale/compute_scale_cuda.h"

namespace mpkernels::compute_scale {
namespace {

void bind_cuda(const Tensor& amax, ScalarType dtype, int64_t margin, bool power_of_two,
               std::optional<Tensor> previous, Tensor quant_scale, Tensor dequant_scale) {
  const OnDeviceOf device(amax);
  device.check_fp32_scalar("amax", amax);
  device.check_fp32_scalar("quant_scale", quant_scale);
  device.check_fp32_scalar("dequant_scale", dequant_scale);
  if (previous) device.check_fp32_scalar("previous", *previous);
  compute_scale_cuda({(const float*)amax.const_data_ptr(),
                      previous ? (const float*)previous->const_data_ptr() : nullptr,
                      (float*)quant_scale.mutable_data_ptr(),
                      (float*)dequant_scale.mutable_data_ptr(),
                      {fp8_of(dtype), (int)margin, power_of_two}},
                     device.stream());
}

}  // namespace
}  // namespace mpkernels::compute_scale

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "compute_scale(Tensor amax, ScalarType dtype, int margin, bool power_of_two, "
      "Tensor? previous, Tensor(a!) quant_scale, Tensor(b!) dequant_scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("compute_scale", TORCH_BOX(&mpkernels::compute_scale::bind_cuda));
}
