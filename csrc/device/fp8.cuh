// FP32 -> FP8 with the same bytes on every target: the instruction where there is one, integer code
// on sm_80 and sm_86 (where cuda_fp8.h goes through double precision).
#pragma once

#include <cstdint>

#include "device/high_precision.cuh"
#include "device/ptx/convert_fp8.cuh"
#include "simd/formats.h"

namespace mpkernels::device {

template <Fp8 kFormat>
struct Fp8Bits {
  static constexpr int kMantissaBits = kFormat == Fp8::kE4M3 ? 3 : 2;
  static constexpr int kBias = kFormat == Fp8::kE4M3 ? 7 : 15;
  static constexpr uint32_t kMaxCode = kFormat == Fp8::kE4M3 ? 0x7e : 0x7b;
  static constexpr int kShift = 23 - kMantissaBits;
  // kMaxCode in FP32: 0x43e00000 = 448, 0x47600000 = 57344.
  static constexpr uint32_t kMax = (kMaxCode << kShift) + ((uint32_t)(127 - kBias) << 23);
  static constexpr uint32_t kSmallestNormal = (uint32_t)(127 + 1 - kBias) << 23;
};

// A magnitude as FP32 bits -> its code. An addition rounds, and leaves the code in the low byte of
// the sum: docs/numerics.md, "How the kernels round"; csrc/simd/fp8_encode.h is the same.
template <Fp8 kFormat>
__device__ __forceinline__ uint32_t encode_magnitude(uint32_t magnitude) {
  using F = Fp8Bits<kFormat>;
  constexpr uint32_t kInf = 0x7f800000u, kNanCode = 0x7f;
  constexpr uint32_t kOffset = ((uint32_t)F::kShift << 23) - (F::kSmallestNormal >> F::kShift);
  const uint32_t capped = min(magnitude, F::kMax);
  const uint32_t exponent = max(capped & kInf, F::kSmallestNormal);
  const uint32_t addend = exponent + (exponent >> F::kShift) + kOffset;
  const float sum = __fadd_rn(__uint_as_float(capped), __uint_as_float(addend));
  return magnitude > kInf ? kNanCode : __float_as_uint(sum) & 0xffu;
}

// Four magnitudes -> four codes, the first in the low byte.
template <Fp8 kFormat>
__device__ __forceinline__ uint32_t encode_magnitudes(const float (&m)[4]) {
#if __CUDA_ARCH__ >= 890
  if constexpr (kFormat == Fp8::kE4M3)
    return ptx::convert_e4m3x2(m[0], m[1]) | (uint32_t)ptx::convert_e4m3x2(m[2], m[3]) << 16;
  else
    return ptx::convert_e5m2x2(m[0], m[1]) | (uint32_t)ptx::convert_e5m2x2(m[2], m[3]) << 16;
#else
  uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = encode_magnitude<kFormat>(__float_as_uint(m[i]));
  return __byte_perm(__byte_perm(codes[0], codes[1], 0x0040),
                     __byte_perm(codes[2], codes[3], 0x0040), 0x5410);
#endif
}

// The sign bits of four elements in the places of four codes' signs; other bits are undefined. The
// sign is the top bit of an element's last byte.
__device__ __forceinline__ uint32_t code_signs(const uint32_t (&words)[2]) {
  return __byte_perm(words[0], words[1], 0x7531);
}
__device__ __forceinline__ uint32_t code_signs(const uint32_t (&words)[4]) {
  return __byte_perm(__byte_perm(words[0], words[1], 0x0073),
                     __byte_perm(words[2], words[3], 0x0073), 0x5410);
}

constexpr uint32_t kCodeSigns = 0x80808080u;

// What encode4 multiplies by: |quant_scale|, and its sign in the place of each code's sign.
struct SignedScale {
  float magnitude;
  uint32_t signs;
};

__device__ __forceinline__ SignedScale signed_scale(float quant_scale) {
  return {fabsf(quant_scale), __float_as_uint(quant_scale) >> 31 ? kCodeSigns : 0u};
}

// Four elements -> the codes of their products with quant_scale; `most` becomes the maximum with
// their magnitudes. The sign goes past the product, since hardware chooses that of a NaN.
template <HighPrecision kInput, Fp8 kFormat, int kWords>
__device__ __forceinline__ uint32_t encode4(const uint32_t (&words)[kWords],
                                            const SignedScale& scale_by, uint32_t& most) {
  using W = Words<kInput>;
  static_assert(kWords * W::kElements == 4);
  float product[4];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const uint32_t magnitudes = words[i] & W::kMagnitudes;
    most = W::max(most, magnitudes);
    float wide[W::kElements];
    W::widen(magnitudes, wide);
#pragma unroll
    for (int k = 0; k < W::kElements; ++k)
      product[i * W::kElements + k] = __fmul_rn(wide[k], scale_by.magnitude);
  }
  const uint32_t signs = (code_signs(words) ^ scale_by.signs) & kCodeSigns;
  return encode_magnitudes<kFormat>(product) | signs;
}

// Four rows of four bytes -> four columns of four.
__device__ __forceinline__ void transpose_4x4(uint32_t (&r)[4]) {
  const uint32_t a = __byte_perm(r[0], r[1], 0x5140), b = __byte_perm(r[2], r[3], 0x5140);
  const uint32_t c = __byte_perm(r[0], r[1], 0x7362), d = __byte_perm(r[2], r[3], 0x7362);
  r[0] = __byte_perm(a, b, 0x5410);
  r[1] = __byte_perm(a, b, 0x7632);
  r[2] = __byte_perm(c, d, 0x5410);
  r[3] = __byte_perm(c, d, 0x7632);
}

}  // namespace mpkernels::device
