// linear_backward is the kernels of its parts in turn, so it has none of its own; one call instead
// of three is what it is for.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "host/operands.h"
#include "host/products.h"

namespace mpkernels::linear_backward {
namespace {

// grad_out's codes, k to a row, times an operand of the forward pass.
void gradient(const uint8_t* codes, Fp8 format, int64_t k, float dequant_scale, const char* name,
              const Tensor& kept, const std::optional<Tensor>& kept_dequant_scale, int64_t m,
              Tensor& out) {
  MPK_CHECK(kept.size(1) == k && kept_dequant_scale, name, " does not fit grad_out");
  scaled_mm::Params p{};
  p.a = {codes, k, format}, p.b = operand_of(name, kept);
  p.m = m, p.n = kept.size(0), p.k = k;
  p.scale = dequant_scale * scale_of(name, *kept_dequant_scale);
  multiply(p, nullptr, out);
}

void bind_cpu(const Tensor& grad_out, const std::optional<Tensor>& x_t,
              const std::optional<Tensor>& dequant_scale_x, const std::optional<Tensor>& weight_t,
              const std::optional<Tensor>& dequant_scale_weight, std::vector<Tensor> grad_scaling,
              bool calibrated, bool record, int64_t margin, bool power_of_two, Tensor scratch,
              Tensor grad_x, Tensor grad_weight) {
  check_dense("scratch", scratch);
  const int64_t codes = grad_out.numel(), m = grad_out.size(0), n = grad_out.size(1);
  MPK_CHECK(scratch.numel() >= aligned(codes) + codes, "scratch is too small");
  const Fp8 format = fp8_of(scratch.scalar_type());
  uint8_t* const q = (uint8_t*)scratch.mutable_data_ptr();
  uint8_t* const q_t = x_t ? q + aligned(codes) : nullptr;
  const float dequant =
      quantize_operand("grad_out", grad_out, format, grad_scaling,
                       {calibrated, record, (int)margin, power_of_two}, {q, n}, {q_t, m});
  if (weight_t)
    gradient(q, format, n, dequant, "weight_t", *weight_t, dequant_scale_weight, m, grad_x);
  if (x_t) gradient(q_t, format, m, dequant, "x_t", *x_t, dequant_scale_x, n, grad_weight);
}

}  // namespace
}  // namespace mpkernels::linear_backward

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "linear_backward(Tensor grad_out, Tensor? x_t, Tensor? dequant_scale_x, Tensor? weight_t, "
      "Tensor? dequant_scale_weight, Tensor(a!)[] grad_scaling, bool calibrated, bool record, "
      "int margin, bool power_of_two, Tensor(b!) scratch, Tensor(c!) grad_x, "
      "Tensor(d!) grad_weight) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("linear_backward", TORCH_BOX(&mpkernels::linear_backward::bind_cpu));
}
