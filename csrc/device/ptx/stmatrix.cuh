// Four 8 x 8 matrices of 16-bit elements from the registers of a warp, as matrix instructions
// leave them, to rows of 16 bytes in shared memory (sm_90). Lane l gives the address of row l % 8
// of matrix l / 8; register i belongs to matrix i.
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

template <bool kTransposed>
__device__ __forceinline__ void store_matrices(uint32_t row, const uint32_t (&v)[4]) {
  if constexpr (kTransposed)
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
        "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
        : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

}  // namespace mpkernels::ptx
