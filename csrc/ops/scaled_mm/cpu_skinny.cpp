// One to eight columns: each row of X is read once and met with all of Y, which is decoded first.
// The sums run along K in vector lanes and are added up at the end of a row.
//
// Limit: reading X. At one column a byte of X costs 1/8 instruction (one load, six to decode and
// two to multiply for 64), so one core can take about 80 GB/s, more than its share of the memory.
#include <algorithm>
#include <iterator>

#include "ops/scaled_mm/problem.h"
#include "simd/parallel.h"

namespace mpkernels::scaled_mm {
namespace {

constexpr int64_t kBlockRows = 64;           // sums finished at a time
constexpr int64_t kStretchBytes = 32 << 10;  // of decoded Y, which stays in L1 for a block of rows
constexpr int64_t kThreadBytes = 128 << 10;  // of X worth a thread: about 5 us

// Where a block's sums are: row i and column j at data[i * row_step + j * col_step], the output's
// rows contiguous.
struct Sums {
  float* data;
  int64_t row_step, col_step;
  float& at(int64_t i, int64_t j) const { return data[i * row_step + j * col_step]; }
};

// Runs dot_rows(first row, number of rows, sums) on blocks of rows over all threads.
template <typename DotRows>
void for_row_blocks(const Problem& problem, const DotRows& dot_rows) {
  const int64_t block_bytes = std::max<int64_t>(kBlockRows * problem.depth, 1);
  const int64_t grain = std::max<int64_t>(kThreadBytes / block_bytes, 1);
  parallel_for(0, ceil_div(problem.rows, kBlockRows), grain, [&](int64_t begin, int64_t end) {
    float data[kBlockRows * kSkinnyCols];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * kBlockRows;
      const int64_t rows = std::min(kBlockRows, problem.rows - row);
      std::fill(std::begin(data), std::end(data), 0.0f);
      if (problem.swapped) {
        dot_rows(row, rows, Sums{data, 1, kBlockRows});
        finish(problem, data, kBlockRows, 0, problem.cols, row, rows);
      } else {
        dot_rows(row, rows, Sums{data, kSkinnyCols, 1});
        finish(problem, data, kSkinnyCols, row, rows, 0, problem.cols);
      }
    }
  });
}

#if defined(__x86_64__)

// Four streams of X, or two where eight columns' sums fill the registers.
constexpr int group_rows(int cols) { return cols <= 4 ? 4 : 2; }

template <int Cols>
MPK_AVX512_BF16 void dot_group_bf16(const uint8_t* const* x, const Bf16Decoder& decoder,
                                    const uint16_t* y, int64_t y_pitch, int64_t begin, int64_t end,
                                    float* sums) {
  constexpr int kGroup = group_rows(Cols);
  __m512 lanes[kGroup][Cols];
#pragma GCC unroll 4
  for (int r = 0; r < kGroup; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < Cols; ++c) lanes[r][c] = _mm512_setzero_ps();
  for (int64_t k = begin; k < end; k += 64) {
    __m512i first[kGroup], second[kGroup];
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r)
      decode64(decoder, load_codes(x[r] + k, end - k), first[r], second[r]);
#pragma GCC unroll 8
    for (int c = 0; c < Cols; ++c) {
      __m512i y_first = _mm512_load_si512(y + c * y_pitch + k);
      __m512i y_second = _mm512_load_si512(y + c * y_pitch + k + 32);
      // Else g++ 12 loads them again for each row, and loads are what limits eight columns.
      asm("" : "+v"(y_first), "+v"(y_second));
#pragma GCC unroll 4
      for (int r = 0; r < kGroup; ++r) {
        lanes[r][c] = _mm512_dpbf16_ps(lanes[r][c], (__m512bh)first[r], (__m512bh)y_first);
        lanes[r][c] = _mm512_dpbf16_ps(lanes[r][c], (__m512bh)second[r], (__m512bh)y_second);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kGroup; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < Cols; ++c) sums[r * Cols + c] = _mm512_reduce_add_ps(lanes[r][c]);
}

template <int Cols>
MPK_AVX512_BF16 void dot_rows_bf16(const Problem& problem, const uint16_t* y, int64_t y_pitch,
                                   int64_t row, int64_t rows, const Sums& sums) {
  constexpr int kGroup = group_rows(Cols);
  constexpr int64_t kStretch = round_up(kStretchBytes / 2 / Cols, 64);
  const Bf16Decoder decoder = bf16_decoder(fp8_tables(problem.x.format));
  for (int64_t k = 0; k < problem.depth; k += kStretch)
    for (int64_t i = 0; i < rows; i += kGroup) {
      const uint8_t* x[kGroup];
      // Past the end the last row is computed again; its sums are not finished.
      for (int r = 0; r < kGroup; ++r)
        x[r] = problem.x.data + (row + std::min(i + r, rows - 1)) * problem.x.pitch;
      float group[kGroup * Cols];
      dot_group_bf16<Cols>(x, decoder, y, y_pitch, k, std::min(k + kStretch, problem.depth), group);
      for (int r = 0; r < kGroup; ++r)
        for (int c = 0; c < Cols; ++c) sums.at(i + r, c) += group[r * Cols + c];
    }
}

MPK_AVX512_BF16 void decode_y(const Problem& problem, uint16_t* y, int64_t pitch) {
  const Bf16Decoder decoder = bf16_decoder(fp8_tables(problem.y.format));
  for (int64_t c = 0; c < problem.cols; ++c)
    for (int64_t k = 0; k < problem.depth; k += 64) {
      __m512i first, second;
      decode64(decoder, load_codes(problem.y.data + c * problem.y.pitch + k, problem.depth - k),
               first, second);
      _mm512_store_si512(y + c * pitch + k, first);
      _mm512_store_si512(y + c * pitch + k + 32, second);
    }
}

template <int Cols>
void multiply_bf16(const Problem& problem, const uint16_t* y, int64_t y_pitch) {
  if (problem.cols < Cols) return multiply_bf16<std::max(Cols - 1, 1)>(problem, y, y_pitch);
  for_row_blocks(problem, [&](int64_t row, int64_t rows, const Sums& sums) {
    dot_rows_bf16<Cols>(problem, y, y_pitch, row, rows, sums);
  });
}

#endif

constexpr int64_t kLanes = 16;   // sums along K, so that the loops become vectors
constexpr int64_t kChunk = 256;  // codes decoded at a time

// Rows of X against y[cols][y_pitch], FP32 and zero from `depth` to the next multiple of kLanes.
MPK_INLINE void dot_rows_fp32_body(const uint8_t* x, int64_t x_pitch, const float* table,
                                   const float* y, int64_t y_pitch, int64_t rows, int64_t cols,
                                   int64_t depth, const Sums& sums) {
  float lanes[kSkinnyCols][kLanes], decoded[kChunk];
  for (int64_t i = 0; i < rows; ++i, x += x_pitch) {
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t l = 0; l < kLanes; ++l) lanes[c][l] = 0.0f;
    for (int64_t k = 0; k < depth; k += kChunk) {
      const int64_t count = std::min(kChunk, depth - k), padded = round_up(count, kLanes);
      for (int64_t d = 0; d < count; ++d) decoded[d] = table[x[k + d]];
      for (int64_t d = count; d < padded; ++d) decoded[d] = 0.0f;
      for (int64_t c = 0; c < cols; ++c) {
        float partial[kLanes];
        for (int64_t l = 0; l < kLanes; ++l) partial[l] = lanes[c][l];
        for (int64_t d = 0; d < padded; d += kLanes)
          for (int64_t l = 0; l < kLanes; ++l)
            partial[l] += decoded[d + l] * y[c * y_pitch + k + d + l];
        for (int64_t l = 0; l < kLanes; ++l) lanes[c][l] = partial[l];
      }
    }
    for (int64_t c = 0; c < cols; ++c) {
      float sum = 0.0f;
      for (int64_t l = 0; l < kLanes; ++l) sum += lanes[c][l];
      sums.at(i, c) = sum;
    }
  }
}
MPK_MULTIVERSION((), void, dot_rows_fp32,
                 (const uint8_t* x, int64_t x_pitch, const float* table, const float* y,
                  int64_t y_pitch, int64_t rows, int64_t cols, int64_t depth, const Sums& sums),
                 (x, x_pitch, table, y, y_pitch, rows, cols, depth, sums))

void multiply_fp32(const Problem& problem, float* y, int64_t y_pitch) {
  const float* y_table = fp8_tables(problem.y.format).fp32.data();
  for (int64_t c = 0; c < problem.cols; ++c)
    for (int64_t k = 0; k < y_pitch; ++k)
      y[c * y_pitch + k] =
          k < problem.depth ? y_table[problem.y.data[c * problem.y.pitch + k]] : 0.0f;
  for_row_blocks(problem, [&](int64_t row, int64_t rows, const Sums& sums) {
    dot_rows_fp32(problem.x.data + row * problem.x.pitch, problem.x.pitch,
                  fp8_tables(problem.x.format).fp32.data(), y, y_pitch, rows, problem.cols,
                  problem.depth, sums);
  });
}

}  // namespace

void multiply_skinny(const Problem& problem) {
  thread_local Scratch scratch;  // 2 or 4 times the bytes of Y
  // A line more, so that the same k of eight columns is not in one set of L1.
  const int64_t y_pitch = round_up(problem.depth, 64) + 32;
#if defined(__x86_64__)
  if (capability() == kAvx512Bf16) {
    uint16_t* y = scratch.reserve<uint16_t>(problem.cols * y_pitch);
    decode_y(problem, y, y_pitch);
    return multiply_bf16<kSkinnyCols>(problem, y, y_pitch);
  }
#endif
  multiply_fp32(problem, scratch.reserve<float>(problem.cols * y_pitch), y_pitch);
}

}  // namespace mpkernels::scaled_mm
