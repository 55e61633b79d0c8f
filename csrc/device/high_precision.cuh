// float32, bfloat16 and float16 as the 32-bit words that 16-byte loads bring: one element a word,
// or two of which the first sits in the low half.
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::device {

constexpr uint32_t kFp32Magnitude = 0x7fffffffu;

// Per format: `Element` as stored, elements a word, `kMagnitudes` that clears the signs of a word,
// `max` of two words of magnitudes element by element, `widest` of the elements of such a word as
// FP32 bits, `widen` to FP32, exact, `narrow` from FP32, to nearest with ties to even.
template <HighPrecision>
struct Words;

// Magnitudes order like their bits, Inf above all finite ones and NaN above Inf, so an integer
// maximum is exact, keeps Inf and NaN (fmaxf drops NaN), and does not depend on the order.
template <>
struct Words<HighPrecision::kFloat32> {
  using Element = uint32_t;
  static constexpr int kElements = 1;
  static constexpr uint32_t kMagnitudes = kFp32Magnitude;
  static __device__ __forceinline__ uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
  static __device__ __forceinline__ uint32_t widest(uint32_t word) { return word; }
  static __device__ __forceinline__ void widen(uint32_t word, float (&out)[1]) {
    out[0] = __uint_as_float(word);
  }
  static __device__ __forceinline__ uint32_t narrow(const float (&in)[1]) {
    return __float_as_uint(in[0]);
  }
};

struct TwoHalves {
  using Element = uint16_t;
  static constexpr int kElements = 2;
  static constexpr uint32_t kMagnitudes = 0x7fff7fffu;
  static __device__ __forceinline__ uint32_t max(uint32_t a, uint32_t b) { return __vmaxu2(a, b); }
  static __device__ __forceinline__ uint32_t larger_half(uint32_t word) {
    const uint32_t low = word & 0xffffu, high = word >> 16;
    return low > high ? low : high;
  }
};

template <>
struct Words<HighPrecision::kBFloat16> : TwoHalves {
  static __device__ __forceinline__ uint32_t widest(uint32_t word) {
    return larger_half(word) << 16;
  }
  static __device__ __forceinline__ void widen(uint32_t word, float (&out)[2]) {
    out[0] = __uint_as_float(word << 16);
    out[1] = __uint_as_float(word & 0xffff0000u);
  }
  static __device__ __forceinline__ uint32_t narrow(const float (&in)[2]) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(in[1]), "f"(in[0]));
    return word;
  }
};

template <>
struct Words<HighPrecision::kFloat16> : TwoHalves {
  static __device__ __forceinline__ float to_float(uint16_t half) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(half));
    return f;
  }
  static __device__ __forceinline__ uint32_t widest(uint32_t word) {
    return __float_as_uint(to_float((uint16_t)larger_half(word)));
  }
  static __device__ __forceinline__ void widen(uint32_t word, float (&out)[2]) {
    out[0] = to_float((uint16_t)word);
    out[1] = to_float((uint16_t)(word >> 16));
  }
  static __device__ __forceinline__ uint32_t narrow(const float (&in)[2]) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(in[1]), "f"(in[0]));
    return word;
  }
};

}  // namespace mpkernels::device
