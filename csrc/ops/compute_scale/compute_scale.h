// compute_scale: amax -> (quant_scale, dequant_scale). Contract:
// mpkernels/ops/compute_scale/__init__.py.
#pragma once

#include "simd/formats.h"

namespace mpkernels::compute_scale {

struct Scales {
  float quant, dequant;
};

// previous: null if there is none.
Scales compute_scale_cpu(float amax, Fp8 format, int margin, bool power_of_two,
                         const float* previous);

}  // namespace mpkernels::compute_scale
