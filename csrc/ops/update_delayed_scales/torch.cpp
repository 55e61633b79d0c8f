#include <torch/csrc/stable/library.h>

#include <vector>

#include "host/check.h"
#include "ops/update_delayed_scales/update_delayed_scales.h"

namespace mpkernels::update_delayed_scales {
namespace {

float* fp32_data(const char* name, const Tensor& t) {
  check_dense(name, t);
  MPK_CHECK(t.scalar_type() == ScalarType::Float && t.numel() > 0, name, " must hold float32");
  return (float*)t.mutable_data_ptr();
}

void bind_cpu(std::vector<Tensor> amax_histories, std::vector<Tensor> quant_scales,
              std::vector<Tensor> dequant_scales, Tensor step_ended, std::vector<double> fp8_maxima,
              int64_t margin, bool power_of_two, bool most_recent) {
  float* const ended = fp32_data("step_ended", step_ended);
  if (*ended == 0) return;
  for (size_t i = 0; i < amax_histories.size(); ++i) {
    const Fp8 format = fp8_maxima[i] == 448 ? Fp8::kE4M3 : Fp8::kE5M2;
    update_delayed_scales_cpu(
        {fp32_data("amax_histories", amax_histories[i]), amax_histories[i].numel(),
         fp32_data("quant_scales", quant_scales[i]), fp32_data("dequant_scales", dequant_scales[i]),
         format, (int)margin, power_of_two, most_recent});
  }
  *ended = 0;
}

}  // namespace
}  // namespace mpkernels::update_delayed_scales

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "update_delayed_scales(Tensor(a!)[] amax_histories, Tensor(b!)[] quant_scales, "
      "Tensor(c!)[] dequant_scales, Tensor(d!) step_ended, float[] fp8_maxima, int margin, "
      "bool power_of_two, bool most_recent) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("update_delayed_scales", TORCH_BOX(&mpkernels::update_delayed_scales::bind_cpu));
}
