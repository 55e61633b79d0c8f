#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/quantize/quantize.h"

namespace mpkernels::quantize {
namespace {

void bind_cpu(const Tensor& x, const Tensor& quant_scale, bool transpose, Tensor q, Tensor q_t,
              Tensor amax) {
  check_cpu("x", x);
  check_fp32_scalar("quant_scale", quant_scale);
  check_cpu("q", q);
  check_cpu("q_t", q_t);
  check_fp32_scalar("amax", amax);
  const Params params{rows_of("x", x),
                      high_precision_of(x.scalar_type()),
                      fp8_of(q.scalar_type()),
                      *(const float*)quant_scale.const_data_ptr(),
                      code_rows_of("q", q, x, false),
                      transpose ? code_rows_of("q_t", q_t, x, true) : CodeRows{}};
  *(float*)amax.mutable_data_ptr() = quantize_cpu(params);
}

}  // namespace
}  // namespace mpkernels::quantize

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "quantize(Tensor x, Tensor quant_scale, bool transpose, Tensor(a!) q, Tensor(b!) q_t, "
      "Tensor(c!) amax) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("quantize", TORCH_BOX(&mpkernels::quantize::bind_cpu));
}
