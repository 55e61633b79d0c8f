// Single elements of float32, bfloat16 or float16, in registers, shared and global memory.
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::scaled_mm {

// Two values rounded to nearest even (overflow to Inf), the first in the low half.
template <HighPrecision kOut>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t v;
  if constexpr (kOut == HighPrecision::kBFloat16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  return v;
}

__device__ __forceinline__ float load_element(const void* data, int64_t i, HighPrecision format) {
  if (format == HighPrecision::kFloat32) return ((const float*)data)[i];
  const uint16_t half = ((const uint16_t*)data)[i];
  if (format == HighPrecision::kBFloat16) return __uint_as_float((uint32_t)half << 16);
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
  return v;
}

__device__ __forceinline__ void store_element(void* data, int64_t i, float v,
                                              HighPrecision format) {
  if (format == HighPrecision::kFloat32)
    ((float*)data)[i] = v;
  else if (format == HighPrecision::kBFloat16)
    ((uint16_t*)data)[i] = (uint16_t)pack<HighPrecision::kBFloat16>(v, 0.f);
  else
    ((uint16_t*)data)[i] = (uint16_t)pack<HighPrecision::kFloat16>(v, 0.f);
}

__device__ __forceinline__ float load_shared(uint32_t at) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ float2 load_shared_pair(uint32_t at) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ void store_shared(uint32_t at, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}
__device__ __forceinline__ void store_shared_pair(uint32_t at, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x), "f"(y) : "memory");
}

}  // namespace mpkernels::scaled_mm
