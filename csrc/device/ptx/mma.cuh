// mma.sync: d (16, 8) = a (16, K) b (K, 8) + c by the threads of a warp. With g = lane / 4 and
// t = lane % 4, register r of a holds bytes 16 (r / 2) + 4 t ... of row g + 8 (r % 2), register r
// of b holds bytes 16 r + 4 t ... of column g, and d[i] is element (g + 8 (i / 2), 2 t + i % 2).
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-mma
// Not volatile: they touch registers only.
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::ptx {

#define MPK_MMA_OPERANDS " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}"
#define MPK_MMA_REGISTERS             \
  "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), \
      "=f"(d[3])                      \
      : "r"(a[0]),                    \
        "r"(a[1]),                    \
        "r"(a[2]),                    \
        "r"(a[3]),                    \
        "r"(b[0]),                    \
        "r"(b[1]),                    \
        "f"(c[0]),                    \
        "f"(c[1]),                    \
        "f"(c[2]),                    \
        "f"(c[3])

// K = 16, float16 with FP32 sums (sm_80).
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2], const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" MPK_MMA_OPERANDS ";" : MPK_MMA_REGISTERS);
}

#define MPK_MMA_FP8(a_format, b_format, types)                                   \
  if constexpr (kA == Fp8::a_format && kB == Fp8::b_format)                      \
  asm("mma.sync.aligned.m16n8k32.row.col.f32." types ".f32" MPK_MMA_OPERANDS ";" \
      : MPK_MMA_REGISTERS)

// K = 32, FP8 (sm_89). On sm_90 and sm_100 ptxas makes FP16 instructions of it.
template <Fp8 kA, Fp8 kB>
__device__ __forceinline__ void mma_fp8(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2], const float (&c)[4]) {
  MPK_MMA_FP8(kE4M3, kE4M3, "e4m3.e4m3");
  MPK_MMA_FP8(kE4M3, kE5M2, "e4m3.e5m2");
  MPK_MMA_FP8(kE5M2, kE4M3, "e5m2.e4m3");
  MPK_MMA_FP8(kE5M2, kE5M2, "e5m2.e5m2");
}

// The operands after the sums: a power of two (UE8M0) for each 32 values of K, here 2^0 for all,
// and which byte of it in which thread's register counts.
#define MPK_MMA_UNIT_SCALES ", %14, {0, 0}, %14, {0, 0};"
#define MPK_MMA_MX(a_format, b_format, types)                                                 \
  if constexpr (kA == Fp8::a_format && kB == Fp8::b_format)                                   \
  asm("mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32." types \
      ".f32.ue8m0" MPK_MMA_OPERANDS MPK_MMA_UNIT_SCALES                                       \
      : MPK_MMA_REGISTERS, "r"(0x7f7f7f7f))

// The same product by the block-scaled instruction (sm_120a), which consumer Blackwell runs at
// twice the rate of the one above. https://github.com/triton-lang/triton/issues/11320
template <Fp8 kA, Fp8 kB>
__device__ __forceinline__ void mma_fp8_unit_scaled(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2], const float (&c)[4]) {
  MPK_MMA_MX(kE4M3, kE4M3, "e4m3.e4m3");
  MPK_MMA_MX(kE4M3, kE5M2, "e4m3.e5m2");
  MPK_MMA_MX(kE5M2, kE4M3, "e5m2.e4m3");
  MPK_MMA_MX(kE5M2, kE5M2, "e5m2.e5m2");
}

#undef MPK_MMA_OPERANDS
#undef MPK_MMA_REGISTERS
#undef MPK_MMA_FP8
#undef MPK_MMA_UNIT_SCALES
#undef MPK_MMA_MX

}  // namespace mpkernels::ptx
