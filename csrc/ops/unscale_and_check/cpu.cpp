// One read and one write of each gradient, or one read where inv_loss_scale is exactly 1: there
// g * 1 is g, bit for bit, and only a NaN's payload could change.
//
// Only the product needs a check: Inf and NaN times anything are Inf or NaN, so a bad gradient
// cannot hide. And only its magnitude: as integers magnitudes order like the values, Inf and NaN
// above all, so the loop keeps one integer maximum, and one comparison at its end tells whether any
// result rounds to Inf in the gradient's type.
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
    case FloatType::kFloat32:
      return unscale_as<float>(grad.data, begin, end, inv_loss_scale);
    case FloatType::kBFloat16:
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
