// Two divisions. float64 holds amax * 2^margin exactly, and a quotient of two FP32 numbers rounded
// to 53 bits and then to FP32 is the one rounded once: docs/numerics.md, compute_scale.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "ops/compute_scale/compute_scale.h"
#include "simd/bits.h"
#include "simd/fp8_encode.h"

namespace mpkernels::compute_scale {
namespace {

double without_fraction(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  bits &= ~((1ull << 52) - 1);
  memcpy(&x, &bits, 8);
  return x;
}

float scale_of(float amax, Fp8 format, int margin, bool power_of_two) {
  const double fp8_max = from_bits(format == Fp8::kE4M3 ? E4M3::kMax : E5M2::kMax);
  const double quotient = fp8_max / std::ldexp((double)amax, margin);
  const double capped = quotient < FLT_MAX ? quotient : FLT_MAX;
  return (float)(power_of_two ? without_fraction(capped) : capped);
}

}  // namespace

Scales compute_scale_cpu(float amax, Fp8 format, int margin, bool power_of_two,
                         const float* previous) {
  const bool usable = amax > 0 && amax <= FLT_MAX;
  const float kept = previous ? *previous : 1.0f;
  const float quant = usable ? scale_of(amax, format, margin, power_of_two) : kept;
  const float dequant = 1.0f / quant;
  return {quant, dequant > FLT_MAX ? FLT_MAX : dequant};
}

}  // namespace mpkernels::compute_scale
