// Asynchronous FP8 products of a warpgroup (sm_90a): d (64, N) += x (64, 32) . y (N, 32)^T, both
// operands in shared memory with K contiguous, d in FP32 registers.
//
// Thread t of the warpgroup (warp w = t / 32, lane l = t % 32) holds of d, for each j < N / 8:
//   d[4 j], d[4 j + 1]      row 16 w + l / 4,      columns 8 j + 2 (l % 4) and the next
//   d[4 j + 2], d[4 j + 3]  row 16 w + l / 4 + 8,  the same columns
#pragma once

#include <cstdint>

#include "simd/formats.h"

namespace mpkernels::ptx {

// Rows of 128 bytes, swizzled as TMA does in groups of eight rows (1024 bytes, aligned to as much).
// The next 32 bytes of K are descriptor + 2.
// PTX ISA, "matrix descriptor": address / 16; leading offset, unused here (1); offset between
// groups of eight rows / 16 in bits 32 to 45; 1 = 128-byte swizzle in bits 62 and 63.
__device__ __forceinline__ uint64_t operand_descriptor(uint32_t address) {
  return (uint64_t)((address & 0x3ffff) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// Before the first product of a chain, and after any other access to its accumulators.
__device__ __forceinline__ void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The compiler knows nothing of products in flight: it may not move accesses to d across this.
template <int kCount>
__device__ __forceinline__ void hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define MPK_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define MPK_FIRST8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define MPK_FIRST10 MPK_FIRST8 ",%8,%9,"
#define MPK_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MPK_D32(i) MPK_D8(i), MPK_D8(i + 8), MPK_D8(i + 16), MPK_D8(i + 24)

// Without volatile ptxas could still not drop it, since d is read later; with it the order of
// products is that of the source.
#define MPK_WGMMA(n, a, b, list, x, y, add_, ...)                             \
  asm volatile(                                                               \
      "{\n"                                                                   \
      ".reg .pred add;\n"                                                     \
      "setp.ne.b32 add, " add_ ", 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32." a "." b " {" list "}, " \
      x ", " y ", add, 1, 1;\n"                                               \
      "}"                                                                     \
      : __VA_ARGS__ : "l"(x_tile), "l"(y_tile), "r"((int)add))
#define MPK_WGMMA_N(a, b)                                                                     \
  if constexpr (kN == 16)                                                                     \
    MPK_WGMMA(16, a, b, MPK_FIRST8, "%8", "%9", "%10", MPK_D8(0));                            \
  else if constexpr (kN == 64)                                                                \
    MPK_WGMMA(64, a, b, MPK_FIRST10 MPK_TEN(1) MPK_TEN(2) "%30,%31", "%32", "%33", "%34",     \
              MPK_D32(0));                                                                    \
  else if constexpr (kN == 128)                                                               \
    MPK_WGMMA(128, a, b, MPK_FIRST10 MPK_TEN(1) MPK_TEN(2) MPK_TEN(3) MPK_TEN(4) MPK_TEN(5)   \
              "%60,%61,%62,%63", "%64", "%65", "%66", MPK_D32(0), MPK_D32(32));               \
  else                                                                                        \
    MPK_WGMMA(256, a, b, MPK_FIRST10 MPK_TEN(1) MPK_TEN(2) MPK_TEN(3) MPK_TEN(4) MPK_TEN(5)   \
              MPK_TEN(6) MPK_TEN(7) MPK_TEN(8) MPK_TEN(9) MPK_TEN(10) MPK_TEN(11)             \
              "%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130",              \
              MPK_D32(0), MPK_D32(32), MPK_D32(64), MPK_D32(96))

// `add` false: d = x . y^T.
template <int kN, Fp8 kX, Fp8 kY>
__device__ __forceinline__ void multiply_tiles(float (&d)[kN / 2], uint64_t x_tile, uint64_t y_tile,
                                               bool add) {
  static_assert(kN == 16 || kN == 64 || kN == 128 || kN == 256);
  if constexpr (kX == Fp8::kE4M3 && kY == Fp8::kE4M3) { MPK_WGMMA_N("e4m3", "e4m3"); }
  else if constexpr (kX == Fp8::kE4M3) { MPK_WGMMA_N("e4m3", "e5m2"); }
  else if constexpr (kY == Fp8::kE4M3) { MPK_WGMMA_N("e5m2", "e4m3"); }
  else { MPK_WGMMA_N("e5m2", "e5m2"); }
}

#undef MPK_WGMMA_N
#undef MPK_WGMMA
#undef MPK_D32
#undef MPK_D8
#undef MPK_FIRST10
#undef MPK_FIRST8
#undef MPK_TEN
// clang-format on

}  // namespace mpkernels::ptx
