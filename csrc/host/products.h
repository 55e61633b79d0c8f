// Torch's tensors as operands and outputs of the CPU's scaled_mm.
#pragma once

#include "host/check.h"
#include "host/formats.h"
#include "ops/scaled_mm/scaled_mm.h"

namespace mpkernels {

inline scaled_mm::Output output_of(ScalarType dtype) {
  if (dtype == ScalarType::Float) return scaled_mm::Output::kFloat32;
  if (dtype == ScalarType::BFloat16) return scaled_mm::Output::kBFloat16;
  MPK_CHECK(dtype == ScalarType::Half, "unsupported dtype of out or bias");
  return scaled_mm::Output::kFloat16;
}

inline scaled_mm::Operand operand_of(const char* name, const Tensor& t) {
  MPK_CHECK(t.is_cpu() && t.dim() == 2 && (t.stride(1) == 1 || t.size(1) <= 1), name,
            " must be a CPU matrix with unit stride along K");
  return {(const uint8_t*)t.const_data_ptr(), t.stride(0), fp8_of(t.scalar_type())};
}

inline float scale_of(const char* name, const Tensor& t) {
  check_fp32_scalar(name, t);
  return *(const float*)t.const_data_ptr();
}

// out (M, N) with unit stride along N, and bias (N,) or null. The rest of p is there already.
inline void multiply(scaled_mm::Params p, const Tensor* bias, Tensor& out) {
  if (bias != nullptr) {
    check_dense("bias", *bias);
    MPK_CHECK(bias->numel() == p.n, "bias must have N values");
    p.bias = bias->const_data_ptr();
    p.bias_dtype = output_of(bias->scalar_type());
  }
  MPK_CHECK(out.is_cpu() && out.dim() == 2 && out.size(0) == p.m && out.size(1) == p.n &&
                (out.stride(1) == 1 || p.n <= 1),
            "out must be a CPU matrix (M, N) with unit stride along N");
  p.out = out.mutable_data_ptr();
  p.out_pitch = out.stride(0);
  p.out_dtype = output_of(out.scalar_type());
  scaled_mm::scaled_mm_cpu(p);
}

}  // namespace mpkernels
