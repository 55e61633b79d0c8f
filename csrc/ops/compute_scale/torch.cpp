#include <torch/csrc/stable/library.h>

#include <optional>

#include "host/check.h"
#include "host/formats.h"
#include "ops/compute_scale/compute_scale.h"

namespace mpkernels::compute_scale {
namespace {

void bind_cpu(const Tensor& amax, ScalarType dtype, int64_t margin, bool power_of_two,
              std::optional<Tensor> previous, Tensor quant_scale, Tensor dequant_scale) {
  check_fp32_scalar("amax", amax);
  check_fp32_scalar("quant_scale", quant_scale);
  check_fp32_scalar("dequant_scale", dequant_scale);
  if (previous) check_fp32_scalar("previous", *previous);
  const Scales scales = compute_scale_cpu(
      *(const float*)amax.const_data_ptr(), fp8_of(dtype), (int)margin, power_of_two,
      previous ? (const float*)previous->const_data_ptr() : nullptr);
  *(float*)quant_scale.mutable_data_ptr() = scales.quant;
  *(float*)dequant_scale.mutable_data_ptr() = scales.dequant;
}

}  // namespace
}  // namespace mpkernels::compute_scale

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "compute_scale(Tensor amax, ScalarType dtype, int margin, bool power_of_two, "
      "Tensor? previous, Tensor(a!) quant_scale, Tensor(b!) dequant_scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("compute_scale", TORCH_BOX(&mpkernels::compute_scale::bind_cpu));
}
