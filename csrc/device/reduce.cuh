// Reductions over a warp and a block. Integers only: they do not depend on the order.
#pragma once

#include <cstdint>

namespace mpkernels::device {

constexpr uint32_t kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// Of all threads of the block, in warp 0 only. Every thread must call it, once: the shared memory
// is not reused.
template <int kThreads>
__device__ __forceinline__ uint32_t block_max(uint32_t value) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp);
  __shared__ uint32_t of_warp[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = __reduce_max_sync(kWholeWarp, value);
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  if (warp == 0) value = __reduce_max_sync(kWholeWarp, lane < kWarps ? of_warp[lane] : 0u);
  return value;
}

}  // namespace mpkernels::device
