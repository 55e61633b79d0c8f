// Bit casts and the 16-bit formats, as integer code that every instruction set vectorises to the
// same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/multiversion.h"

namespace mpkernels {

// Storage types that tell the 16-bit formats apart.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

constexpr uint32_t kFp32SignMask = 0x80000000u;
constexpr uint32_t kFp32MagnitudeMask = 0x7fffffffu;
constexpr uint32_t kFp32Inf = 0x7f800000u;  // magnitudes above it are NaN

MPK_INLINE uint32_t to_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

MPK_INLINE float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

MPK_INLINE float to_float(float x) { return x; }

MPK_INLINE float to_float(BFloat16 x) { return from_bits((uint32_t)x.bits << 16); }

// Exact. 2^112 = 2^(127 - 15) moves the exponent from fp16's bias to fp32's, and normalises
// subnormals on the way.
MPK_INLINE float to_float(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t finite = to_bits(from_bits(magnitude << 13) * 0x1p112f);
  const uint32_t special =
      (magnitude << 13) | kFp32Inf;  // exponent 31: Inf and NaN keep their payload
  return from_bits((magnitude >= 0x7c00u ? special : finite) | (uint32_t)(x.bits & 0x8000u) << 16);
}

MPK_INLINE void from_float(float f, float& out) { out = f; }

// Round to nearest, ties to even; every NaN becomes 0x7fc0, as torch does.
MPK_INLINE void from_float(float f, BFloat16& out) {
  const uint32_t u = to_bits(f);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out.bits = (u & kFp32MagnitudeMask) > kFp32Inf ? (uint16_t)0x7fc0u : (uint16_t)rounded;
}

// Round to nearest, ties to even; overflow gives Inf (IEEE), NaN gives 0x7e00 with its sign.
MPK_INLINE void from_float(float f, Half& out) {
  const uint32_t u = to_bits(f), magnitude = u & kFp32MagnitudeMask;
  // 65520 = 0x477ff000 is the first value that rounds to infinity: halfway between 65504 and 2^16.
  const uint32_t capped = magnitude < 0x477ff000u ? magnitude : 0x477ff000u;
  const uint32_t normal = (capped - (112u << 23) + 0xfffu + ((capped >> 13) & 1u)) >> 13;
  // Adding 1/2 rounds at 2^-24, fp16's smallest subnormal; the sum's low bits are the result.
  const uint32_t subnormal = to_bits(from_bits(capped) + 0.5f) - 0x3f000000u;
  const uint32_t finite =
      capped < (113u << 23) ? subnormal : normal;  // 2^-14 is the smallest normal
  const uint32_t rounded = magnitude > kFp32Inf ? 0x7e00u : finite;
  out.bits = (uint16_t)(rounded | (u >> 16 & 0x8000u));
}

}  // namespace mpkernels
