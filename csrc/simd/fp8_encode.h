// FP32 -> FP8 in a dozen operations that every instruction set vectorises to the same bits.
#pragma once

#include <cstdint>

#include "simd/bits.h"

namespace mpkernels {

constexpr uint8_t kFp8NanCode = 0x7f;  // of both formats, without the sign

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
};

using E4M3 = Fp8Format<3, 7, 0x7e>;   // S.1111.110; S.1111.111 is NaN, there are no infinities
using E5M2 = Fp8Format<2, 15, 0x7b>;  // S.11110.11; S.11111.xx are Inf and NaN

// |value| as FP32 bits -> the code without its sign. Round to nearest, ties to even; beyond the
// maximum, Inf included, the maximum; NaN (with either sign) gives kFp8NanCode.
//
// With v = 1.f * 2^e the FP8 ulp of v is u = 2^(e - mantissa bits), or that of the smallest normal
// exponent if e is less. FP32 numbers in [2^(e + kShift), 2^(e + kShift + 1)) are u apart, so
// adding 2^(e + kShift) to v rounds it to a multiple of u, and that multiple stands in the low bits
// of the sum: from 2^mantissa bits up to twice that for a normal v, less for a subnormal one. The
// code of a normal v is this plus (biased FP8 exponent - 1) << mantissa bits, which goes into the
// low bits of the addend: it is even, so ties still go to even codes.
template <typename Format>
MPK_INLINE uint8_t encode_fp8_magnitude(uint32_t magnitude) {
  const uint32_t capped = magnitude < Format::kMax ? magnitude : Format::kMax;
  const uint32_t own_exponent = capped & kFp32Inf;  // e + 127 in its place
  const uint32_t exponent =
      own_exponent > Format::kSmallestNormal ? own_exponent : Format::kSmallestNormal;
  // exponent >> kShift is the biased FP32 exponent << mantissa bits.
  constexpr uint32_t kOffset =
      ((uint32_t)Format::kShift << 23) - (Format::kSmallestNormal >> Format::kShift);
  const uint32_t addend = exponent + (exponent >> Format::kShift) + kOffset;
  const uint8_t finite = (uint8_t)to_bits(from_bits(capped) + from_bits(addend));
  return magnitude > kFp32Inf ? kFp8NanCode : finite;
}

}  // namespace mpkernels
