// One read. Squares are summed in FP64, where those of FP32 values are exact (48 of 53 bits,
// exponents within +-298) and no sum of them overflows. So the sum is finite exactly when every
// gradient is: the check costs nothing. Only a loss scale below 1 can make Inf of a finite
// gradient; then each chunk is looked at once more while it is in the cache.
//
// The order of the sum is fixed: lane i mod kLanes within a chunk, the lanes by halves, the chunks
// in order. It depends on no instruction set and no number of threads.
#include <atomic>
#include <cmath>

#include "ops/grad_norm_and_check/grad_norm_and_check.h"
#include "ops/unscale_and_check/unscale_and_check.h"
#include "simd/bits.h"

namespace mpkernels::grad_norm_and_check {
namespace {

// 4 AVX-512 registers of sums: as many independent additions as hide the latency of one.
constexpr int kLanes = 32;

template <typename In>
MPK_INLINE double sum_of_squares_body(const In* __restrict__ g, int64_t n) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const double x = to_float(g[i + lane]);
      sums[lane] += x * x;
    }
  for (int lane = 0; i < n; ++i, ++lane) {
    const double x = to_float(g[i]);
    sums[lane] += x * x;
  }
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}
MPK_MULTIVERSION((template <typename In>), double, sum_of_squares, (const In* g, int64_t n), (g, n))

double sum_of_squares(const TensorData<const void>& grad, int64_t begin, int64_t end) {
  switch (grad.type) {
    case HighPrecision::kFloat32:
      return sum_of_squares((const float*)grad.data + begin, end - begin);
    case HighPrecision::kBFloat16:
      return sum_of_squares((const BFloat16*)grad.data + begin, end - begin);
    default:
      return sum_of_squares((const Half*)grad.data + begin, end - begin);
  }
}

}  // namespace

Result grad_norm_and_check_cpu(const TensorDataList<const void>& grads, float inv_loss_scale) {
  const ChunkedList chunks(grads);
  if (chunks.numel() == 0) return {0.0f, false};
  std::vector<double> partial(chunks.num_chunks());
  std::atomic<bool> overflow{false};
  const bool can_overflow = !(std::fabs(inv_loss_scale) <= 1.0f);  // NaN too
  chunks.for_each([&](const Chunk& chunk) {
    const TensorData<const void>& grad = grads[chunk.tensor];
    partial[chunk.index] = sum_of_squares(grad, chunk.begin, chunk.end);
    if (can_overflow &&
        unscale_and_check::any_non_finite(grad, chunk.begin, chunk.end, inv_loss_scale))
      overflow = true;
  });
  double sum = 0;
  for (const double p : partial) sum += p;
  return {(float)(std::fabs((double)inv_loss_scale) * std::sqrt(sum)),
          overflow || !std::isfinite(sum)};
}

}  // namespace mpkernels::grad_norm_and_check
