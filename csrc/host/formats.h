// Torch's dtypes as the kernels' enums.
#pragma once

#include "host/check.h"
#include "simd/formats.h"

namespace mpkernels {

inline HighPrecision high_precision_of(ScalarType dtype) {
  if (dtype == ScalarType::Float) return HighPrecision::kFloat32;
  if (dtype == ScalarType::BFloat16) return HighPrecision::kBFloat16;
  MPK_CHECK(dtype == ScalarType::Half, "expected float32, bfloat16 or float16");
  return HighPrecision::kFloat16;
}

inline Fp8 fp8_of(ScalarType dtype) {
  if (dtype == ScalarType::Float8_e4m3fn) return Fp8::kE4M3;
  MPK_CHECK(dtype == ScalarType::Float8_e5m2, "expected float8_e4m3fn or float8_e5m2");
  return Fp8::kE5M2;
}

}  // namespace mpkernels
