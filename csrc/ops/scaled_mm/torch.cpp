#include <torch/csrc/stable/library.h>

#include <optional>

#include "host/products.h"

namespace mpkernels::scaled_mm {
namespace {

void bind_cpu(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
              const Tensor& dequant_scale_b, const std::optional<Tensor>& bias, Tensor out,
              bool accumulate) {
  Params p{};
  p.a = operand_of("a", a);
  p.b = operand_of("b", b);
  p.m = a.size(0);
  p.n = b.size(0);
  p.k = a.size(1);
  MPK_CHECK(b.size(1) == p.k, "scaled_mm: a and b differ in K");
  p.scale =
      scale_of("dequant_scale_a", dequant_scale_a) * scale_of("dequant_scale_b", dequant_scale_b);
  p.accumulate = accumulate;
  multiply(p, bias ? &*bias : nullptr, out);
}

}  // namespace
}  // namespace mpkernels::scaled_mm

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "scaled_mm(Tensor a, Tensor b, Tensor dequant_scale_a, Tensor dequant_scale_b, Tensor? bias, "
      "Tensor(a!) out, bool accumulate) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("scaled_mm", TORCH_BOX(&mpkernels::scaled_mm::bind_cpu));
}
