// quantize: x -> FP8 codes, their transpose and max |x|. Contract:
// mpkernels/ops/quantize/__init__.py.
#pragma once

#include "simd/formats.h"
#include "simd/rows.h"

namespace mpkernels::quantize {

struct Params {
  Rows x;
  HighPrecision input;
  Fp8 format;
  float quant_scale;
  CodeRows q;    // of the tensor's shape
  CodeRows q_t;  // of the transposed shape
};

// Returns max |x|.
float quantize_cpu(const Params& params);

}  // namespace mpkernels::quantize
