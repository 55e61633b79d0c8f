// Transposing bytes with interleaves, which every vector instruction set has.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/multiversion.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

#if defined(__x86_64__)
// to[c] = from[r * from_pitch + c] for r < 64 in order, c < 16: the same in four blocks of 16 rows,
// one in each 128-bit lane, within which interleaves stay.
MPK_AVX512 inline void transpose_64x16(const uint8_t* from, int64_t from_pitch, __m512i (&to)[16]) {
  __m512i a[16];
  for (int i = 0; i < 16; ++i) {
    const uint8_t* row = from + i * from_pitch;
    const __m128i* lanes[4];
    for (int block = 0; block < 4; ++block)
      lanes[block] = (const __m128i*)(row + 16 * block * from_pitch);
    a[i] = _mm512_castsi128_si512(_mm_loadu_si128(lanes[0]));
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(lanes[1]), 1);
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(lanes[2]), 2);
    a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128(lanes[3]), 3);
  }
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = _mm512_unpacklo_epi8(a[i], a[i + 8]);
      to[2 * i + 1] = _mm512_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = to[i];
  }
}
#endif

}  // namespace mpkernels
