// compute_scale on a GPU. Kernel: cuda.cu.
#pragma once

#include "host/launch.h"
#include "simd/formats.h"

namespace mpkernels::compute_scale {

// How a scale follows from an amax.
struct ScaleRule {
  Fp8 format;
  int margin;
  bool power_of_two;
};

struct ScaleParams {
  const float* amax;
  const float* previous;  // null if there is none
  float *quant_scale, *dequant_scale;
  ScaleRule rule;
};

void compute_scale_cuda(const ScaleParams& params, Stream stream);

}  // namespace mpkernels::compute_scale
