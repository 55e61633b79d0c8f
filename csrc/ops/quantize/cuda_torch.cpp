#include <torch/csrc/stable/library.h>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/quantize/quantize_cuda.h"

namespace mpkernels::quantize {
namespace {

void bind_cuda(const Tensor& x, const Tensor& quant_scale, bool transpose, Tensor q, Tensor q_t,
               Tensor amax) {
  const OnDeviceOf device(x);
  device.check_fp32_scalar("quant_scale", quant_scale);
  device.check("q", q);
  device.check("q_t", q_t);
  device.check_fp32_scalar("amax", amax);
  const HighPrecision input = high_precision_of(x.scalar_type());
  QuantizePlan plan = plan_quantize(rows_of("x", x), input, code_rows_of("q", q, x, false),
                                    transpose ? code_rows_of("q_t", q_t, x, true) : CodeRows{});
  plan.params.quant_scale = (const float*)quant_scale.const_data_ptr();
  plan.params.amax = (uint32_t*)amax.mutable_data_ptr();
  quantize_cuda(plan, input, fp8_of(q.scalar_type()), device.stream());
}

}  // namespace
}  // namespace mpkernels::quantize

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "quantize(Tensor x, Tensor quant_scale, bool transpose, Tensor(a!) q, Tensor(b!) q_t, "
      "Tensor(c!) amax) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("quantize", TORCH_BOX(&mpkernels::quantize::bind_cuda));
}
