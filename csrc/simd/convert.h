// Rows of FP16 and BF16 to and from FP32. Kernels that compute in FP32 convert a block at a time in
// L1: apart from the arithmetic the conversions vectorise better, and FP16's, a dozen or two
// integer instructions in bits.h, become one of F16C.
#pragma once

#include "simd/bits.h"
#include "simd/capability.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mpkernels {

#if defined(__x86_64__)
// Each converts whole vectors and returns how many elements those were.
MPK_AVX512 inline int64_t widen_avx512(const Half* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));
  return i;
}

MPK_AVX2 inline int64_t widen_avx2(const Half* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  return i;
}

MPK_AVX512 inline int64_t narrow_avx512(const float* from, Half* to, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256((__m256i*)(to + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  return i;
}

MPK_AVX2 inline int64_t narrow_avx2(const float* from, Half* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i*)(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  return i;
}
#endif

MPK_INLINE void widen_bf16_body(const BFloat16* __restrict__ from, float* __restrict__ to,
                                int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}
MPK_MULTIVERSION((), void, widen_bf16, (const BFloat16* from, float* to, int64_t n), (from, to, n))

MPK_INLINE void narrow_bf16_body(const float* __restrict__ from, BFloat16* __restrict__ to,
                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}
MPK_MULTIVERSION((), void, narrow_bf16, (const float* from, BFloat16* to, int64_t n), (from, to, n))

// Exact.
inline void widen(const BFloat16* from, float* to, int64_t n) { widen_bf16(from, to, n); }
inline void widen(const Half* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__x86_64__)
  const Capability level = capability();
  if (level >= kAvx2) i = level >= kAvx512 ? widen_avx512(from, to, n) : widen_avx2(from, to, n);
#endif
  for (; i < n; ++i) to[i] = to_float(from[i]);
}

// Round to nearest, ties to even; overflow gives Inf.
inline void narrow(const float* from, BFloat16* to, int64_t n) { narrow_bf16(from, to, n); }
inline void narrow(const float* from, Half* to, int64_t n) {
  int64_t i = 0;
#if defined(__x86_64__)
  const Capability level = capability();
  if (level >= kAvx2) i = level >= kAvx512 ? narrow_avx512(from, to, n) : narrow_avx2(from, to, n);
#endif
  for (; i < n; ++i) from_float(from[i], to[i]);
}

}  // namespace mpkernels
