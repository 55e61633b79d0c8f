// linear_forward is the kernels of its parts in turn, so it has none of its own; one call instead
// of three is what it is for.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "host/operands.h"
#include "host/products.h"

namespace mpkernels::linear_forward {
namespace {

void bind_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              std::vector<Tensor> x_scaling, std::vector<Tensor> weight_scaling, bool calibrated,
              bool record, int64_t margin, bool power_of_two, Tensor scratch, Tensor out,
              Tensor x_t, Tensor dequant_scale_x, Tensor weight_t, Tensor dequant_scale_weight) {
  check_dense("scratch", scratch);
  check_fp32_scalar("dequant_scale_x", dequant_scale_x);
  check_fp32_scalar("dequant_scale_weight", dequant_scale_weight);
  const int64_t x_codes = x.numel(), weight_codes = weight.numel(), k = x.size(1);
  MPK_CHECK(weight.size(1) == k, "x and weight differ in K");
  MPK_CHECK(scratch.numel() >= aligned(x_codes) + weight_codes, "scratch is too small");
  const Fp8 format = fp8_of(scratch.scalar_type());
  const OperandScaling how{calibrated, record, (int)margin, power_of_two};
  uint8_t* const q_x = (uint8_t*)scratch.mutable_data_ptr();
  uint8_t* const q_w = q_x + aligned(x_codes);
  const float dequant_x =
      quantize_operand("x", x, format, x_scaling, how, {q_x, k}, kept_codes_of("x_t", x_t, x));
  const float dequant_w = quantize_operand("weight", weight, format, weight_scaling, how, {q_w, k},
                                           kept_codes_of("weight_t", weight_t, weight));
  *(float*)dequant_scale_x.mutable_data_ptr() = dequant_x;
  *(float*)dequant_scale_weight.mutable_data_ptr() = dequant_w;
  scaled_mm::Params p{};
  p.a = {q_x, k, format}, p.b = {q_w, k, format};
  p.m = x.size(0), p.n = weight.size(0), p.k = k;
  p.scale = dequant_x * dequant_w;
  multiply(p, bias ? &*bias : nullptr, out);
}

}  // namespace
}  // namespace mpkernels::linear_forward

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "linear_forward(Tensor x, Tensor weight, Tensor? bias, Tensor(a!)[] x_scaling, "
      "Tensor(b!)[] weight_scaling, bool calibrated, bool record, int margin, bool power_of_two, "
      "Tensor(c!) scratch, Tensor(d!) out, Tensor(e!) x_t, Tensor(f!) dequant_scale_x, "
      "Tensor(g!) weight_t, Tensor(h!) dequant_scale_weight) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("linear_forward", TORCH_BOX(&mpkernels::linear_forward::bind_cpu));
}
