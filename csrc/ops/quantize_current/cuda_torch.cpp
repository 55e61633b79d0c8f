// Two launches: the partial maxima of amax, then quantize, whose blocks make the scale of them. The
// kernels are those of the two ops.
#include <torch/csrc/stable/library.h>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/amax/amax_cuda.h"
#include "ops/quantize/quantize_cuda.h"

namespace mpkernels::quantize_current {
namespace {

// partials: scratch, amax::kMostPartials words.
void bind_cuda(const Tensor& x, int64_t margin, bool power_of_two, bool transpose, Tensor partials,
               Tensor q, Tensor q_t, Tensor amax, Tensor quant_scale, Tensor dequant_scale) {
  const OnDeviceOf device(x);
  device.check_dense("partials", partials);
  device.check("q", q);
  device.check("q_t", q_t);
  device.check_fp32_scalar("amax", amax);
  device.check_fp32_scalar("quant_scale", quant_scale);
  device.check_fp32_scalar("dequant_scale", dequant_scale);
  MPK_CHECK(partials.scalar_type() == ScalarType::Float && partials.numel() >= amax::kMostPartials,
            "partials must hold a float32 for each block");
  const HighPrecision input = high_precision_of(x.scalar_type());
  const Rows rows = rows_of("x", x);
  const compute_scale::ScaleRule rule{fp8_of(q.scalar_type()), (int)margin, power_of_two};
  float* const amax_out = (float*)amax.mutable_data_ptr();
  float* const quant_scale_out = (float*)quant_scale.mutable_data_ptr();
  float* const dequant_scale_out = (float*)dequant_scale.mutable_data_ptr();
  if (x.numel() == 0) {  // nothing to read; the scales are those of an amax of 0
    set_zero(amax_out, sizeof(float), "amax", device.stream());
    compute_scale::compute_scale_cuda({amax_out, nullptr, quant_scale_out, dequant_scale_out, rule},
                                      device.stream());
    return;
  }
  auto* const words = (uint32_t*)partials.mutable_data_ptr();
  const int count = amax::partial_amaxes_cuda(rows, input, words, device.facts(), device.stream());
  quantize::QuantizePlan plan =
      quantize::plan_quantize(rows, input, code_rows_of("q", q, x, false),
                              transpose ? code_rows_of("q_t", q_t, x, true) : CodeRows{});
  plan.params.current = {words, count, rule, amax_out, quant_scale_out, dequant_scale_out};
  quantize::quantize_cuda(plan, input, rule.format, device.stream());
}

}  // namespace
}  // namespace mpkernels::quantize_current

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "quantize_current(Tensor x, int margin, bool power_of_two, bool transpose, "
      "Tensor(f!) partials, Tensor(a!) q, Tensor(b!) q_t, Tensor(c!) amax, "
      "Tensor(d!) quant_scale, Tensor(e!) dequant_scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("quantize_current", TORCH_BOX(&mpkernels::quantize_current::bind_cuda));
}
