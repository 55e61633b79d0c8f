// update_delayed_scales_: at the end of a step, amax histories -> new scales. Contract:
// mpkernels/ops/update_delayed_scales/__init__.py.
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::update_delayed_scales {

// Of one tensor. amax_history is newest first; slot 0 collects the running step.
struct Params {
  float* amax_history;
  int64_t length;
  float* quant_scale;
  float* dequant_scale;
  Fp8 format;
  int margin;
  bool power_of_two;
  bool most_recent;
};

void update_delayed_scales_cpu(const Params& p);

}  // namespace mpkernels::update_delayed_scales
