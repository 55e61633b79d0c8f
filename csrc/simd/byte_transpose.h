// Transposing bytes with interleaves, which every vector instruction set has.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/multiversion.h"

namespace mpkernels {

// to[c * to_pitch + r] = from[r * from_pitch + c] for r, c < 16.
//
// Number the 256 bytes with 8 bits, 4 of the row and then 4 of the column. Interleaving the first
// 128 bytes with the last 128 rotates those bits by one; after four rounds row and column have
// changed places.
MPK_INLINE void transpose_16x16(const uint8_t* from, int64_t from_pitch, uint8_t* to,
                                int64_t to_pitch) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  Bytes a[16], b[16];
  for (int i = 0; i < 16; ++i) memcpy(&a[i], from + i * from_pitch, 16);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                         6, 22, 7, 23);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                             13, 29, 14, 30, 15, 31);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) memcpy(to + i * to_pitch, &a[i], 16);
}

}  // namespace mpkernels
