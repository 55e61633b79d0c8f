// One read and one write of each gradient, or one read where inv_loss_scale is exactly 1: there
// g * 1 is g, bit for bit, and only a NaN's payload could change.
//
// Only the product needs a check: Inf and NaN times anything are Inf or NaN, so a bad gradient
// cannot hide. And only its magnitude: as integers magnitudes order like the values, Inf and NaN
// above all, so the loop keeps one integer maximum, and one comparison at its end tells whether any
// result rounds to Inf in the gradient's type.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "ops/unscale_and_check/unscale_and_check.h"
#include "simd/bits.h"

namespace mpkernels::unscale_and_check {
namespace {

// Magnitude bits of the first FP32 value that rounds to Inf. 16-bit types: halfway between their
// largest number and the power of two after it, a tie that goes to the even side, which is Inf.
constexpr int32_t rounds_to_inf(float) { return (int32_t)kFp32Inf; }
constexpr int32_t rounds_to_inf(BFloat16) { return 0x7f7f8000; }
constexpr int32_t rounds_to_inf(Half) { return 0x477ff000; }  // 65520

// The largest magnitude of the products, as bits. Writes them, unless T is const.
template <typename T>
MPK_INLINE int32_t unscale_body(T* __restrict__ g, int64_t n, float inv_loss_scale) {
  int32_t largest = 0;  // signed: SSE2 has no unsigned comparison
  for (int64_t i = 0; i < n; ++i) {
    const float unscaled = to_float(g[i]) * inv_loss_scale;
    const int32_t magnitude = (int32_t)(to_bits(unscaled) & kFp32MagnitudeMask);
    largest = magnitude > largest ? magnitude : largest;
    if constexpr (!std::is_const_v<T>) from_float(unscaled, g[i]);
  }
  return largest;
}
#if defined(__x86_64__)
// F16C converts in one instruction what is 25 integer ones in the loop above, which does not
// vectorise to it. As overloads these two take the place of the loop's copies below.
MPK_AVX512 int32_t unscale_avx512(Half* g, int64_t n, float inv_loss_scale) {
  const __m512 factor = _mm512_set1_ps(inv_loss_scale);
  const __m512i magnitude_mask = _mm512_set1_epi32((int)kFp32MagnitudeMask);
  __m512i largest = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m256i* const halves = (__m256i*)(g + i);
    const __m512 unscaled = _mm512_mul_ps(_mm512_cvtph_ps(_mm256_loadu_si256(halves)), factor);
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(unscaled), magnitude_mask);
    largest = _mm512_max_epi32(largest, magnitude);
    _mm256_storeu_si256(halves, _mm512_cvtps_ph(unscaled, _MM_FROUND_TO_NEAREST_INT));
  }
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, largest);
  return std::max(*std::max_element(lanes, lanes + 16), unscale_body(g + i, n - i, inv_loss_scale));
}

MPK_AVX2 int32_t unscale_avx2(Half* g, int64_t n, float inv_loss_scale) {
  const __m256 factor = _mm256_set1_ps(inv_loss_scale);
  const __m256i magnitude_mask = _mm256_set1_epi32((int)kFp32MagnitudeMask);
  __m256i largest = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m128i* const halves = (__m128i*)(g + i);
    const __m256 unscaled = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(halves)), factor);
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(unscaled), magnitude_mask);
    largest = _mm256_max_epi32(largest, magnitude);
    _mm_storeu_si128(halves, _mm256_cvtps_ph(unscaled, _MM_FROUND_TO_NEAREST_INT));
  }
  int32_t lanes[8];
  _mm256_storeu_si256((__m256i*)lanes, largest);
  return std::max(*std::max_element(lanes, lanes + 8), unscale_body(g + i, n - i, inv_loss_scale));
}
#endif

MPK_MULTIVERSION((template <typename T>), int32_t, unscale,
                 (T * g, int64_t n, float inv_loss_scale), (g, n, inv_loss_scale))

template <typename T, typename Void>
bool unscale_as(Void* data, int64_t begin, int64_t end, float inv_loss_scale) {
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
  return unscale((Element*)data + begin, end - begin, inv_loss_scale) >= rounds_to_inf(T{});
}

template <typename Void>
bool unscale_range(const TensorData<Void>& grad, int64_t begin, int64_t end, float inv_loss_scale) {
  switch (grad.type) {
    case HighPrecision::kFloat32:
      return unscale_as<float>(grad.data, begin, end, inv_loss_scale);
    case HighPrecision::kBFloat16:
      return unscale_as<BFloat16>(grad.data, begin, end, inv_loss_scale);
    default:
      return unscale_as<Half>(grad.data, begin, end, inv_loss_scale);
  }
}

}  // namespace

bool unscale_and_check_cpu(const TensorDataList<void>& grads, float inv_loss_scale) {
  std::atomic<bool> found{false};
  ChunkedList(grads).for_each([&](const Chunk& chunk) {
    const TensorData<void>& grad = grads[chunk.tensor];
    const bool bad = inv_loss_scale == 1.0f
                         ? any_non_finite({grad.data, grad.numel, grad.type}, chunk.begin,
                                          chunk.end, inv_loss_scale)
                         : unscale_range(grad, chunk.begin, chunk.end, inv_loss_scale);
    if (bad) found = true;
  });
  return found;
}

bool any_non_finite(const TensorData<const void>& grad, int64_t begin, int64_t end,
                    float inv_loss_scale) {
  return unscale_range(grad, begin, end, inv_loss_scale);
}

}  // namespace mpkernels::unscale_and_check
