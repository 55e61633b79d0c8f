// The largest magnitude of a row, as bits. The maximum is taken over the sign-cleared bits as
// integers: they order like the magnitudes, Inf and NaN are the largest and so survive, and the
// loop vectorises without -ffast-math.
#pragma once

#include "simd/bits.h"

namespace mpkernels {

MPK_INLINE uint32_t magnitude_bits(float x) { return to_bits(x) & kFp32MagnitudeMask; }
MPK_INLINE uint32_t magnitude_bits(BFloat16 x) { return x.bits & 0x7fffu; }
MPK_INLINE uint32_t magnitude_bits(Half x) { return x.bits & 0x7fffu; }

MPK_INLINE float from_magnitude(float, uint32_t bits) { return from_bits(bits); }
MPK_INLINE float from_magnitude(BFloat16, uint32_t bits) {
  return to_float(BFloat16{(uint16_t)bits});
}
MPK_INLINE float from_magnitude(Half, uint32_t bits) { return to_float(Half{(uint16_t)bits}); }

template <typename In>
MPK_INLINE uint32_t max_magnitude_body(const In* __restrict__ x, int64_t n) {
  uint32_t result = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = magnitude_bits(x[i]);
    result = bits > result ? bits : result;
  }
  return result;
}
MPK_MULTIVERSION((template <typename In>), uint32_t, max_magnitude, (const In* x, int64_t n),
                 (x, n))

}  // namespace mpkernels
