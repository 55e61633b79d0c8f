// The maximum over a block, in two halves with a barrier of the caller's between: kernels that have
// a barrier anyway need no second one. Integers only: they do not depend on the order.
#pragma once

#include <cstdint>

namespace mpkernels::device {

constexpr uint32_t kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// Before the barrier. of_warp is in shared memory, one word a warp.
__device__ __forceinline__ void publish_warp_max(uint32_t value, uint32_t* of_warp) {
  value = __reduce_max_sync(kWholeWarp, value);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
}

// After it, by a whole warp.
template <int kWarps>
__device__ __forceinline__ uint32_t block_max(const uint32_t* of_warp) {
  static_assert(kWarps <= kWarp);
  const int lane = threadIdx.x % kWarp;
  return __reduce_max_sync(kWholeWarp, lane < kWarps ? of_warp[lane] : 0u);
}

}  // namespace mpkernels::device
