// amax: max |x| as fp32. Contract: mpkernels/ops/amax/__init__.py.
#pragma once

#include <cstdint>

namespace mpkernels::amax {

enum class Input { kFloat32, kBFloat16, kFloat16 };

// x: `numel` dense elements.
float amax_cpu(const void* x, Input dtype, int64_t numel);

}  // namespace mpkernels::amax
