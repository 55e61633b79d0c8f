// One read of each gradient, nothing written but a sum for each of kSums and two scalars.
//
// The squares of 16 bytes are added in FP32 and those sums in FP64, which would be the limit on
// GPUs that have 1/64 of it. Where FP32 is too narrow for them, below 2^-100 or from 2^127 on, they
// are added in FP64, which holds those of any FP32 numbers; so the total is finite exactly if every
// gradient is. Only a loss scale below 1 can make Inf of a finite gradient; then each chunk is
// looked at once more.
#include "device/gradients.cuh"
#include "ops/grad_norm_and_check/grad_norm_and_check_cuda.h"

namespace mpkernels::grad_norm_and_check {
namespace {

using namespace device;

constexpr int kWarps = kGradientThreads / 32;

template <HighPrecision kFormat>
constexpr int kPerAccess = 16 / (int)sizeof(typename Words<kFormat>::Element);

// Pairwise, with fused operations: one rounding for the first square of a pair and for each sum.
template <int N>
__device__ __forceinline__ float narrow_sum(const float (&x)[N]) {
  float sums[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i)
    sums[i] = __fmaf_rn(x[2 * i + 1], x[2 * i + 1], __fmul_rn(x[2 * i], x[2 * i]));
#pragma unroll
  for (int half = N / 4; half > 0; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i) sums[i] = __fadd_rn(sums[i], sums[i + half]);
  return sums[0];
}

// FP16's squares are between 2^-48 and 2^32, so its sums are always good, as are those of zeros.
// Elsewhere at least 2^-100 means that what subnormal squares lose, 2^-149 each, does not count,
// and below 2^127 that nothing has overflowed. Inf and NaN are not below it.
template <HighPrecision kFormat>
__device__ __forceinline__ bool is_good(float narrow) {
  constexpr uint32_t kLow = (127u - 100u) << 23, kHigh = 254u << 23;
  return kFormat == HighPrecision::kFloat16 || __float_as_uint(narrow) - kLow < kHigh - kLow;
}

// `sum` plus the squares of one access.
template <HighPrecision kFormat>
__device__ __forceinline__ double add_access(double sum, const GradientVector<kFormat>& v) {
  float x[kPerAccess<kFormat>];
  v.widen(x);
  const float narrow = narrow_sum(x);
  if (is_good<kFormat>(narrow)) return __dadd_rn(sum, (double)narrow);
  uint32_t magnitudes = 0;
#pragma unroll
  for (int w = 0; w < v.kWords; ++w) magnitudes |= v.words[w] & Words<kFormat>::kMagnitudes;
  if (magnitudes == 0) return sum;
  double wide = 0.0;
#pragma unroll
  for (int i = 0; i < kPerAccess<kFormat>; ++i) wide = __fma_rn((double)x[i], (double)x[i], wide);
  return __dadd_rn(sum, wide);
}

// `sum` plus the thread's share of one chunk. Which elements it has, and in which order they are
// added, does not depend on the alignment.
template <HighPrecision kFormat>
__device__ __forceinline__ double add_chunk(double sum, const typename Words<kFormat>::Element* g,
                                            int n) {
  using V = GradientVector<kFormat>;
  constexpr int kElements = kPerAccess<kFormat>, kStride = kGradientThreads * kElements;
  const bool aligned = is_aligned((uint64_t)g, V::kBytes);
  int v = threadIdx.x * kElements;
  if (aligned) {
#pragma unroll 1
    for (; v + (kGradientAccesses - 1) * kStride + kElements <= n;
         v += kGradientAccesses * kStride) {
      V some[kGradientAccesses];
#pragma unroll
      for (int a = 0; a < kGradientAccesses; ++a) some[a].load(g + v + a * kStride);
      float narrow[kGradientAccesses];
      bool good = true;
#pragma unroll
      for (int a = 0; a < kGradientAccesses; ++a) {
        float x[kElements];
        some[a].widen(x);
        narrow[a] = narrow_sum(x);
        good &= is_good<kFormat>(narrow[a]);
      }
      if (good) {
#pragma unroll
        for (int a = 0; a < kGradientAccesses; ++a) sum = __dadd_rn(sum, (double)narrow[a]);
      } else {
#pragma unroll
        for (int a = 0; a < kGradientAccesses; ++a) sum = add_access<kFormat>(sum, some[a]);
      }
    }
  }
#pragma unroll 1
  for (; v < n; v += kStride) {
    V one;
    if (aligned && v + kElements <= n) {
      one.load(g + v);
    } else {  // over the end, which counts as zeros, or not aligned
#pragma unroll
      for (int w = 0; w < V::kWords; ++w) {
        one.words[w] = 0;
#pragma unroll
        for (int e = 0; e < V::W::kElements; ++e) {
          const int i = v + w * V::W::kElements + e;
          if (i < n) one.words[w] |= (uint32_t)g[i] << (16 * e);
        }
      }
    }
    sum = add_access<kFormat>(sum, one);
  }
  return sum;
}

// In thread 0, of all threads: by halves within a warp, then the warps in order.
__device__ __forceinline__ double block_sum(double sum) {
  __shared__ double of_warp[kWarps];
#pragma unroll
  for (int half = 16; half > 0; half /= 2)
    sum = __dadd_rn(sum, __shfl_down_sync(0xffffffffu, sum, half));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kWarps; ++warp) sum = __dadd_rn(sum, of_warp[warp]);
  __syncthreads();
  return sum;
}

template <typename P>
__device__ __forceinline__ void add_squares(const P& p) {
  const float inv_loss_scale = *p.inv_loss_scale;
  const bool can_overflow = !(fabsf(inv_loss_scale) <= 1.0f);  // NaN too
  const uint32_t chunks = num_chunks(p.grads.tensors);
  bool found = false;
#pragma unroll 1
  for (uint32_t slot = blockIdx.x; slot < kSums && slot < chunks; slot += gridDim.x) {
    double sum = 0.0;
    uint32_t tensor = 0;
#pragma unroll 1
    for (uint32_t index = slot; index < chunks; index += kSums) {
      const Chunk chunk = find_chunk<kGradientChunk>(p.grads.tensors, index, tensor);
      tensor = chunk.tensor;
      sum = with_gradient(p.grads, chunk, [&](auto format, auto* g) {
        constexpr HighPrecision kFormat = decltype(format)::value;
        if (can_overflow)
          found |= check_gradient<kFormat, Pass::kCheckProduct>(g, chunk.numel, inv_loss_scale);
        return add_chunk<kFormat>(sum, g, chunk.numel);
      });
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) p.sums[slot] = slot < p.filled ? __dadd_rn(p.sums[slot], sum) : sum;
  }
  raise_found_inf(p.found_inf, found);
}

}  // namespace
}  // namespace mpkernels::grad_norm_and_check

#define MPK_ADD_SQUARES(suffix, bytes)                                                          \
  extern "C" __global__ void __launch_bounds__(mpkernels::kGradientThreads,                     \
                                               mpkernels::kGradientCtasPerSm)                   \
      mpk_grad_norm_and_check##suffix(                                                          \
          const __grid_constant__ mpkernels::grad_norm_and_check::Params<mpkernels::bytes> p) { \
    mpkernels::grad_norm_and_check::add_squares(p);                                             \
  }
MPK_ADD_SQUARES(, kLargeParameters)
MPK_ADD_SQUARES(_4k, kSmallParameters)

extern "C" __global__ void __launch_bounds__(mpkernels::kGradientThreads)
    mpk_grad_norm_and_check_finish(
        const __grid_constant__ mpkernels::grad_norm_and_check::FinishParams p) {
  double sum = 0.0;
  for (uint32_t slot = threadIdx.x; slot < p.filled; slot += mpkernels::kGradientThreads)
    sum = __dadd_rn(sum, p.sums[slot]);
  sum = mpkernels::grad_norm_and_check::block_sum(sum);
  if (threadIdx.x != 0) return;
  // Without elements 0, also where inv_loss_scale is Inf or NaN.
  const double factor = p.filled != 0 ? fabs((double)*p.inv_loss_scale) : 0.0;
  *p.norm = (float)__dmul_rn(factor, __dsqrt_rn(sum));
  if (!isfinite(sum)) *p.found_inf = 1.0f;
}

namespace mpkernels::grad_norm_and_check {

static const Kernel kAddSquares[] = {MPK_KERNEL_ENTRY(mpk_grad_norm_and_check_4k),
                                     MPK_KERNEL_ENTRY(mpk_grad_norm_and_check)};
static const Kernel kFinish = MPK_KERNEL_ENTRY(mpk_grad_norm_and_check_finish);

template <int kBytes>
static uint32_t launch_add_squares(const GradientList& grads, const Arguments& arguments,
                                   const DeviceFacts& facts, Stream stream) {
  uint32_t filled = 0;
  for (const auto& [span, shape, filled_before] :
       plan_grad_norm_and_check<kBytes>(grads.numels, facts)) {
    Params<kBytes> p{};
    fill_gradients(p.grads, grads, span);
    p.inv_loss_scale = arguments.inv_loss_scale, p.found_inf = arguments.found_inf;
    p.sums = arguments.sums, p.filled = filled_before;
    launch(kAddSquares[kBytes > kSmallParameters], shape, p, stream);
    filled = std::max(filled, std::min<uint32_t>(span.chunks, kSums));
  }
  return filled;
}

void grad_norm_and_check_cuda(const GradientList& grads, const Arguments& arguments,
                              const DeviceFacts& facts, Stream stream) {
  constexpr int kSmallCapacity = decltype(Params<kSmallParameters>::grads)::kCapacity;
  FinishParams p{arguments.sums, arguments.inv_loss_scale, arguments.found_inf, arguments.norm, 0};
  p.filled = wants_large_table(grads.numels.size(), kSmallCapacity, facts)
                 ? launch_add_squares<kLargeParameters>(grads, arguments, facts, stream)
                 : launch_add_squares<kSmallParameters>(grads, arguments, facts, stream);
  launch(kFinish, {{1}, {kGradientThreads}}, p, stream);
}

}  // namespace mpkernels::grad_norm_and_check
