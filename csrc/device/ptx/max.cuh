// Maximum of FP32.
#pragma once

namespace mpkernels::ptx {

// NaN if either is; fmaxf gives the other one.
__device__ __forceinline__ float max_nan(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
  return most;
}

}  // namespace mpkernels::ptx
