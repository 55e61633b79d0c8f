// amax: max |x| as fp32. Contract: mpkernels/ops/amax/__init__.py.
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::amax {

// x: `numel` dense elements.
float amax_cpu(const void* x, HighPrecision dtype, int64_t numel);

}  // namespace mpkernels::amax
