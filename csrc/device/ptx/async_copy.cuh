// cp.async (sm_80): copies from global to shared memory that do not pass through registers, and
// their groups. https://docs.nvidia.com/cuda/parallel-thread-execution/#cp-async
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

__device__ __forceinline__ uint32_t smem_addr(const void* p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

// 16 bytes, around L1, where nothing would find them again.
__device__ __forceinline__ void copy_async(uint32_t smem, const void* gmem) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(smem), "l"(gmem)
               : "memory");
}

// Reads the first `valid` of them, 0 to 16; the others become zero.
__device__ __forceinline__ void copy_async(uint32_t smem, const void* gmem, int valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(smem), "l"(gmem),
               "r"(valid)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most kPending of this thread's groups, the newest ones, are unfinished.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace mpkernels::ptx
