// The scale rule, for every kernel that ends in a scale. One float64 division is correctly rounded:
// docs/numerics.md, compute_scale.
#pragma once

#include <cfloat>

#include "ops/compute_scale/compute_scale_cuda.h"

namespace mpkernels::compute_scale {

struct Scales {
  float quant, dequant;
};

// `kept` is the quant_scale where amax gives none.
__device__ inline Scales scales_of(float amax, const ScaleRule& rule, float kept) {
  const double fp8_max = rule.format == Fp8::kE4M3 ? 448.0 : 57344.0;
  // 2^margin by its exponent.
  const double unit = __hiloint2double((1023 + rule.margin) << 20, 0);
  const double quotient = __ddiv_rn(fp8_max, (double)amax * unit);
  double capped = quotient < FLT_MAX ? quotient : FLT_MAX;
  if (rule.power_of_two)
    capped = __hiloint2double(__double2hiint(capped) & (int)0xfff00000, 0);  // no fraction
  const bool usable = amax > 0.0f && amax <= FLT_MAX;
  const float quant = usable ? __double2float_rn(capped) : kept;
  const float dequant = __fdiv_rn(1.0f, quant);
  return {quant, dequant > FLT_MAX ? FLT_MAX : dequant};
}

}  // namespace mpkernels::compute_scale
