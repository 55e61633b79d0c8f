// The tile product of each instruction set, and the packing that feeds it.
//
// A kernel multiplies a panel of kRows rows of X with a panel of kCols rows of Y into an FP32 tile
// [kRows][kCols], kDepth of K at a time. Both panels are decoded while they are packed:
//
//   row panel      [kRows][kStride]            read by broadcasts, so a row stays a row: no
//   shuffles column panel   [depth / pair][kCols][pair] read by vectors, so it is a transpose; pair
//   = 2 for BF16
//
// A column panel is padded to a multiple of kPackStep in depth; rows and columns that do not exist
// are zeros. `resume` continues from the tile's sums instead of from zero: the sum over K is the
// same sequence of additions however K is cut into blocks.
#pragma once

#include <algorithm>

#include "ops/scaled_mm/scaled_mm.h"

namespace mpkernels::scaled_mm {

constexpr int64_t kPackStep = 64;    // the codes of one 512-bit load
constexpr int64_t kPackAhead = 128;  // rows are too short for the hardware to see them coming

#if defined(__x86_64__)

MPK_INLINE MPK_AVX512_BF16 void transpose_16x16(__m512i r[16]) {
  __m512i q[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    q[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    q[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(q[4 * i], q[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(q[4 * i], q[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(q[4 * i + 1], q[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(q[4 * i + 1], q[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    q[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    q[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    q[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    q[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(q[i], q[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(q[i], q[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(q[i + 4], q[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(q[i + 4], q[i + 12], 0xdd);
  }
}

// vdpbf16ps: each FP32 lane adds the products of two BF16 pairs, the second product first, rounding
// to nearest even after each (Intel SDM vol. 2; the same bits as that formula on Zen 5, over 2 *
// 10^6 random pairs). It flushes subnormals to zero and ignores MXCSR, which cannot matter here:
// every FP8 value is a normal BF16 number or zero, and every product and sum is a multiple of 2^-32
// (E5M2's smallest subnormal squared), far above FP32's smallest normal, 2^-126.
//
// Rows x (16 * Vectors) accumulators: 14 x 2 = 28 of the 32 registers, with 2 for Y and 2 for the
// broadcasts. The two instructions a cycle that Zen 5 can start need 1.57 loads, of which it
// does 2.
template <int Rows, int Vectors>
struct Avx512Bf16Kernel {
  using Element = uint16_t;
  static constexpr int kRows = Rows, kCols = 16 * Vectors;
  // A row panel (14 x 512 x 2 = 14 KiB) stays in L1 (32 or 48 KiB) while column panels pass
  // through.
  static constexpr int kDepth = 512;
  static constexpr int kStride =
      kDepth + 32;  // a line more than 1 KiB: rows fall in different sets

  MPK_AVX512_BF16 static void pack_rows(const Operand& x, int64_t row, int64_t rows, int64_t k,
                                        int64_t depth, Element* panel) {
    const Bf16Decoder decoder = bf16_decoder(fp8_tables(x.format));
    for (int64_t i = 0; i < kRows; ++i) {
      const uint8_t* source = x.data + (row + i) * x.pitch + k;
      for (int64_t d = 0; d < depth; d += kPackStep) {
        const __m512i codes = i < rows ? load_codes(source + d, depth - d) : _mm512_setzero_si512();
        __m512i first, second;
        decode64(decoder, codes, first, second);
        _mm512_store_si512(panel + i * kStride + d, first);
        _mm512_store_si512(panel + i * kStride + d + 32, second);
      }
    }
  }

  // Transposes groups of 4 codes and decodes afterwards, when there are half as many registers.
  MPK_AVX512_BF16 static void pack_cols(const Operand& y, int64_t col, int64_t cols, int64_t k,
                                        int64_t depth, Element* panel) {
    const Bf16Decoder decoder = bf16_decoder(fp8_tables(y.format));
    // In each lane, from 4 columns of codes 0 1 2 3 to 4 columns of 0 1, then 4 columns of 2 3.
    const __m512i split_pairs = _mm512_setr4_epi32(0x05040100, 0x0d0c0908, 0x07060302, 0x0f0e0b0a);
    for (int64_t d = 0; d < depth; d += kPackStep) {
      for (int v = 0; v < Vectors; ++v) {
        const uint8_t* source = y.data + (col + v * 16) * y.pitch + k + d;
        __m512i codes[16];
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) {
          codes[j] = load_codes(source + j * y.pitch, v * 16 + j < cols ? depth - d : 0);
          _mm_prefetch(source + j * y.pitch + kPackAhead, _MM_HINT_T0);
        }
        transpose_16x16(codes);
        Element* out = panel + d * kCols + v * 32;
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          __m512i even, odd;
          decode_lanes(decoder, _mm512_shuffle_epi8(codes[i], split_pairs), even, odd);
          _mm512_store_si512(out + 2 * i * 2 * kCols, even);
          _mm512_store_si512(out + (2 * i + 1) * 2 * kCols, odd);
        }
      }
    }
  }

  // `next` is the part of X (with its pitch) that will be packed next, fetched meanwhile; or null.
  MPK_AVX512_BF16 static void multiply(const Element* x, const Element* y, float* tile,
                                       int64_t depth, bool resume, const uint8_t* next,
                                       int64_t next_pitch) {
    __m512 sums[Rows][Vectors];
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v)
        sums[i][v] = resume ? _mm512_load_ps(tile + i * kCols + v * 16) : _mm512_setzero_ps();
#pragma GCC unroll 32
    for (int i = 0; i < Rows * Vectors; ++i)  // the next tile's sums may be as far as L3
      _mm_prefetch(tile + kRows * kCols + i * 16, _MM_HINT_T0);
    for (int64_t begin = 0; begin < depth; begin += kPackStep) {
      if (next != nullptr)
        for (int i = 0; i < Rows; ++i) _mm_prefetch(next + i * next_pitch + begin, _MM_HINT_T0);
      const int64_t end = std::min(begin + kPackStep, depth);
      for (int64_t k = begin; k < end; k += 2) {
        __m512bh y_pairs[Vectors];
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; ++v)
          y_pairs[v] = (__m512bh)_mm512_load_si512(y + k * kCols + v * 32);
#pragma GCC unroll 32
        for (int i = 0; i < Rows; ++i) {
          int32_t pair;
          __builtin_memcpy(&pair, x + i * kStride + k, 4);
          const __m512bh x_pair = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 3
          for (int v = 0; v < Vectors; ++v)
            sums[i][v] = _mm512_dpbf16_ps(sums[i][v], x_pair, y_pairs[v]);
        }
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v) _mm512_store_ps(tile + i * kCols + v * 16, sums[i][v]);
  }
};

#endif

// What the kernels without BF16 instructions share: panels of FP32, decoded by table.
template <int Rows, int Cols>
struct Fp32Panels {
  using Element = float;
  static constexpr int kRows = Rows, kCols = Cols;
  static constexpr int kDepth = 256;
  static constexpr int kStride = kDepth + 16;

  static void pack_rows(const Operand& x, int64_t row, int64_t rows, int64_t k, int64_t depth,
                        Element* panel) {
    const float* table = fp8_tables(x.format).fp32.data();
    for (int64_t i = 0; i < kRows; ++i) {
      const uint8_t* source = x.data + (row + i) * x.pitch + k;
      float* out = panel + i * kStride;
      if (i < rows) {
        for (int64_t d = 0; d < depth; ++d) out[d] = table[source[d]];
      } else {
        std::fill(out, out + depth, 0.0f);
      }
    }
  }

  static void pack_cols(const Operand& y, int64_t col, int64_t cols, int64_t k, int64_t depth,
                        Element* panel) {
    const float* table = fp8_tables(y.format).fp32.data();
    for (int64_t j = 0; j < kCols; ++j) {
      const uint8_t* source = y.data + (col + j) * y.pitch + k;
      for (int64_t d = 0; d < depth; ++d) panel[d * kCols + j] = j < cols ? table[source[d]] : 0.0f;
    }
  }
};

#if defined(__x86_64__)

// A fused multiply-add rounds as a multiplication and an addition would: the products are exact.
template <int Rows, int Vectors>
struct Avx512Kernel : Fp32Panels<Rows, 16 * Vectors> {
  using Base = Fp32Panels<Rows, 16 * Vectors>;
  MPK_AVX512 static void multiply(const float* x, const float* y, float* tile, int64_t depth,
                                  bool resume, const uint8_t*, int64_t) {
    __m512 sums[Rows][Vectors];
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v)
        sums[i][v] = resume ? _mm512_load_ps(tile + i * Base::kCols + v * 16) : _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; ++k) {
      __m512 y_values[Vectors];
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v) y_values[v] = _mm512_load_ps(y + k * Base::kCols + v * 16);
#pragma GCC unroll 32
      for (int i = 0; i < Rows; ++i) {
        const __m512 x_value = _mm512_set1_ps(x[i * Base::kStride + k]);
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; ++v)
          sums[i][v] = _mm512_fmadd_ps(x_value, y_values[v], sums[i][v]);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v)
        _mm512_store_ps(tile + i * Base::kCols + v * 16, sums[i][v]);
  }
};

// 6 x 2 accumulators, 2 registers for Y and 1 for the broadcast: 15 of 16.
struct Avx2Kernel : Fp32Panels<6, 16> {
  MPK_AVX2 static void multiply(const float* x, const float* y, float* tile, int64_t depth,
                                bool resume, const uint8_t*, int64_t) {
    __m256 sums[kRows][2];
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] = resume ? _mm256_load_ps(tile + i * kCols) : _mm256_setzero_ps();
      sums[i][1] = resume ? _mm256_load_ps(tile + i * kCols + 8) : _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < depth; ++k) {
      const __m256 y0 = _mm256_load_ps(y + k * kCols), y1 = _mm256_load_ps(y + k * kCols + 8);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        const __m256 x_value = _mm256_broadcast_ss(x + i * kStride + k);
        sums[i][0] = _mm256_fmadd_ps(x_value, y0, sums[i][0]);
        sums[i][1] = _mm256_fmadd_ps(x_value, y1, sums[i][1]);
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      _mm256_store_ps(tile + i * kCols, sums[i][0]);
      _mm256_store_ps(tile + i * kCols + 8, sums[i][1]);
    }
  }
};

#endif

// Any processor. Vectors of 4, which SSE2 and NEON have in hardware: 4 x 2 sums, 2 for Y and 1 for
// the broadcast are 11 of SSE2's 16 registers.
struct DefaultKernel : Fp32Panels<4, 8> {
  typedef float Vector __attribute__((vector_size(16)));
  static void multiply(const float* x, const float* y, float* tile, int64_t depth, bool resume,
                       const uint8_t*, int64_t) {
    Vector* tile_vectors = (Vector*)tile;
    Vector sums[kRows][2];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] = resume ? tile_vectors[2 * i] : Vector{};
      sums[i][1] = resume ? tile_vectors[2 * i + 1] : Vector{};
    }
    for (int64_t k = 0; k < depth; ++k) {
      const Vector* y_vectors = (const Vector*)(y + k * kCols);
      const Vector y0 = y_vectors[0], y1 = y_vectors[1];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        const float x_value = x[i * kStride + k];
        sums[i][0] += x_value * y0;
        sums[i][1] += x_value * y1;
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      tile_vectors[2 * i] = sums[i][0];
      tile_vectors[2 * i + 1] = sums[i][1];
    }
  }
};

}  // namespace mpkernels::scaled_mm
