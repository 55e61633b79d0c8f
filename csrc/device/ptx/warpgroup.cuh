// Registers and barriers of warpgroups, four warps each (sm_90a).
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

// By all warps of a warpgroup. The kernel needs __launch_bounds__, or ptxas ignores it (C7508).
template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Barrier 0 is __syncthreads'.
__device__ __forceinline__ void sync_warpgroup(uint32_t barrier) {
  asm volatile("bar.sync %0, 128;" ::"r"(barrier) : "memory");
}

}  // namespace mpkernels::ptx
