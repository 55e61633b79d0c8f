// scaled_mm: out = (a b^T) * (dequant_scale_a * dequant_scale_b) + bias [+ out], FP8 in, FP32
// inside. Contract: mpkernels/ops/scaled_mm/__init__.py.
#pragma once

#include <cstdint>

#include "simd/fp8_decode.h"

namespace mpkernels::scaled_mm {

enum class Output { kFloat32, kBFloat16, kFloat16 };

// An FP8 matrix whose rows run along K: element (i, k) is data[i * pitch + k].
struct Operand {
  const uint8_t* data;
  int64_t pitch;
  Fp8 format;
};

struct Params {
  Operand a, b;  // [M, K], [N, K]
  int64_t m, n, k;
  float scale;        // dequant_scale_a * dequant_scale_b
  const void* bias;   // [N], or null
  Output bias_dtype;  // one of the output types too
  void* out;          // [M, N], element (i, j) at i * out_pitch + j
  int64_t out_pitch;
  Output out_dtype;
  bool accumulate;
};

void scaled_mm_cpu(const Params& params);

}  // namespace mpkernels::scaled_mm
