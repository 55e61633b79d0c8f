// FP32 -> FP8, two values an instruction: sm_89 and later.
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

#if __CUDA_ARCH__ >= 890
// Round to nearest, ties to even; beyond the maximum, Inf included, the maximum; NaN gives 0x7f.
// `low` goes to the low byte.
__device__ __forceinline__ uint16_t convert_e4m3x2(float low, float high) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

__device__ __forceinline__ uint16_t convert_e5m2x2(float low, float high) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}
#endif

}  // namespace mpkernels::ptx
