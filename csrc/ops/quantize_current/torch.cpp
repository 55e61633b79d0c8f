// quantize_current is the three kernels in turn, so it has none of its own; one call instead of
// three is what it is for.
#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/amax/amax.h"
#include "ops/compute_scale/compute_scale.h"
#include "ops/quantize/quantize.h"

namespace mpkernels::quantize_current {
namespace {

void bind_cpu(const Tensor& x, int64_t margin, bool power_of_two, bool transpose, Tensor q,
              Tensor q_t, Tensor amax, Tensor quant_scale, Tensor dequant_scale) {
  check_cpu("x", x);
  check_cpu("q", q);
  check_cpu("q_t", q_t);
  check_fp32_scalar("amax", amax);
  check_fp32_scalar("quant_scale", quant_scale);
  check_fp32_scalar("dequant_scale", dequant_scale);
  const HighPrecision input = high_precision_of(x.scalar_type());
  const Fp8 format = fp8_of(q.scalar_type());
  const Rows rows = rows_of("x", x);
  MPK_CHECK(rows.is_dense(), "x or its transpose must be contiguous");

  const float largest = amax::amax_cpu(rows.data, input, x.numel());
  const compute_scale::Scales scales =
      compute_scale::compute_scale_cpu(largest, format, (int)margin, power_of_two, nullptr);
  quantize::quantize_cpu({rows, input, format, scales.quant, code_rows_of("q", q, x, false),
                          transpose ? code_rows_of("q_t", q_t, x, true) : CodeRows{}});
  *(float*)amax.mutable_data_ptr() = largest;
  *(float*)quant_scale.mutable_data_ptr() = scales.quant;
  *(float*)dequant_scale.mutable_data_ptr() = scales.dequant;
}

}  // namespace
}  // namespace mpkernels::quantize_current

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "quantize_current(Tensor x, int margin, bool power_of_two, bool transpose, Tensor(a!) q, "
      "Tensor(b!) q_t, Tensor(c!) amax, Tensor(d!) quant_scale, Tensor(e!) dequant_scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("quantize_current", TORCH_BOX(&mpkernels::quantize_current::bind_cpu));
}
