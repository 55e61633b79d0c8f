// Global loads and stores of 16 bytes, the widest that every target has.
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

// Memory that is read once and that nothing writes meanwhile: not kept in L1. L2 keeps it, for a
// second pass.
__device__ __forceinline__ uint4 load_once(const void* address) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address));
  return v;
}

// Two floats to shared memory in one store: the compiler may split an assignment.
__device__ __forceinline__ void store_shared(float* address, float x, float y) {
  asm volatile(
      "st.shared.v2.f32 [%0], {%1, %2};" ::"r"((uint32_t)__cvta_generic_to_shared(address)), "f"(x),
      "f"(y)
      : "memory");
}

// A flag that several CTAs may raise at the same time.
__device__ __forceinline__ void store_relaxed(float* address, float value) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
}

}  // namespace mpkernels::ptx
