// Four 8 x 16-byte matrices from shared memory to the registers of a warp (sm_75). Lane l gives the
// address of row l % 8 of matrix l / 8; it receives bytes 4 (l % 4) ... of row l / 4 of matrix i in
// v[i]: what matrix instructions take.
#pragma once

#include <cstdint>

namespace mpkernels::ptx {

__device__ __forceinline__ void load_matrices(uint32_t (&v)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
}

}  // namespace mpkernels::ptx
