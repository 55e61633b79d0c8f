// FP32 -> FP8 as integer code that every instruction set vectorises to the same bits.
#pragma once

#include <cstdint>

#include "simd/bits.h"

namespace mpkernels {

constexpr uint32_t kFp8NanCode = 0x7fu;  // of both formats, without the sign

// All constants of a format follow from its bits. The values of E4M3 and E5M2 stand beside them.
template <int kMantissaBitsArg, int kBiasArg, uint32_t kMaxCodeArg>
struct Fp8Format {
  static constexpr int kMantissaBits = kMantissaBitsArg;
  static constexpr int kBias = kBiasArg;
  static constexpr uint32_t kMaxCode = kMaxCodeArg;  // largest finite value, without the sign

  // The mantissa's last bit sits here in FP32: 23 - 3 = 20, 23 - 2 = 21.
  static constexpr int kShift = 23 - kMantissaBits;
  // Difference of the exponent biases: 127 - 7 = 120, 127 - 15 = 112.
  static constexpr uint32_t kRebias = (uint32_t)(127 - kBias) << 23;
  // kMaxCode in FP32: 0x43e00000 = 448 = 1.75 * 2^8, 0x47600000 = 57344 = 1.75 * 2^15.
  static constexpr uint32_t kMax = (kMaxCode << kShift) + kRebias;
  // Smallest normal value 2^(1 - bias) in FP32: 2^-6, 2^-14.
  static constexpr uint32_t kSmallestNormal = (uint32_t)(127 + 1 - kBias) << 23;
  // FP32 has an ulp of 2^(1 - bias - mantissa bits), the subnormal step (2^-9, 2^-16), from
  // 2^(23 + 1 - bias - mantissa bits) on: 2^14, 2^7. Adding that to a smaller value rounds it to a
  // multiple of the step, and leaves the multiple in the low bits of the sum.
  static constexpr uint32_t kSubnormalMagic = (uint32_t)(127 + 24 - kBias - kMantissaBits) << 23;
};

using E4M3 = Fp8Format<3, 7, 0x7e>;   // S.1111.110; S.1111.111 is NaN, there are no infinities
using E5M2 = Fp8Format<2, 15, 0x7b>;  // S.11110.11; S.11111.xx are Inf and NaN

// |value| as FP32 bits -> the code without its sign. Round to nearest, ties to even; beyond the
// maximum, Inf included, the maximum; NaN gives kFp8NanCode.
template <typename Format>
MPK_INLINE uint32_t encode_fp8_magnitude(uint32_t magnitude) {
  const uint32_t capped = magnitude < Format::kMax ? magnitude : Format::kMax;
  const uint32_t subnormal =
      to_bits(from_bits(capped) + from_bits(Format::kSubnormalMagic)) - Format::kSubnormalMagic;
  // Half an ulp, less one unless the code would be odd, carries into the code where RNE rounds up.
  constexpr uint32_t kBelowHalf = (1u << (Format::kShift - 1)) - 1u;
  const uint32_t odd = (capped >> Format::kShift) & 1u;
  const uint32_t normal = (capped - Format::kRebias + kBelowHalf + odd) >> Format::kShift;
  const uint32_t finite = capped < Format::kSmallestNormal ? subnormal : normal;
  return magnitude > kFp32Inf ? kFp8NanCode : finite;
}

}  // namespace mpkernels
