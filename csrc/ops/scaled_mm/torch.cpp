#include <torch/csrc/stable/library.h>

#include <optional>

#include "host/check.h"
#include "ops/scaled_mm/scaled_mm.h"

namespace mpkernels::scaled_mm {
namespace {

Output output_of(ScalarType dtype) {
  if (dtype == ScalarType::Float) return Output::kFloat32;
  if (dtype == ScalarType::BFloat16) return Output::kBFloat16;
  MPK_CHECK(dtype == ScalarType::Half, "scaled_mm: unsupported dtype of out or bias");
  return Output::kFloat16;
}

Operand operand_of(const char* name, const Tensor& t) {
  MPK_CHECK(t.is_cpu() && t.dim() == 2 && (t.stride(1) == 1 || t.size(1) <= 1), name,
            " must be a CPU matrix with unit stride along K");
  const bool e4m3 = t.scalar_type() == ScalarType::Float8_e4m3fn;
  MPK_CHECK(e4m3 || t.scalar_type() == ScalarType::Float8_e5m2, name, " must be FP8");
  return {(const uint8_t*)t.const_data_ptr(), t.stride(0), e4m3 ? Fp8::kE4M3 : Fp8::kE5M2};
}

float scale_of(const char* name, const Tensor& t) {
  check_fp32_scalar(name, t);
  return *(const float*)t.const_data_ptr();
}

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
  if (bias) {
    check_dense("bias", *bias);
    MPK_CHECK(bias->numel() == p.n, "scaled_mm: bias must have N values");
    p.bias = bias->const_data_ptr();
    p.bias_dtype = output_of(bias->scalar_type());
  }
  MPK_CHECK(out.is_cpu() && out.dim() == 2 && out.size(0) == p.m && out.size(1) == p.n &&
                (out.stride(1) == 1 || p.n <= 1),
            "scaled_mm: out must be a CPU matrix (M, N) with unit stride along N");
  p.out = out.mutable_data_ptr();
  p.out_pitch = out.stride(0);
  p.out_dtype = output_of(out.scalar_type());
  p.accumulate = accumulate;
  scaled_mm_cpu(p);
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
