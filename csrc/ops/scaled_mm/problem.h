// The product as the CPU kernels see it: rows of X, which are streamed, times rows of Y, which are
// packed or kept. Which operand is which is a choice (see cpu.cpp), undone when results are stored.
#pragma once

#include <cstdlib>
#include <new>

#include "ops/scaled_mm/scaled_mm.h"

namespace mpkernels::scaled_mm {

struct Problem {
  Operand x, y;
  int64_t rows, cols, depth;  // of X, of Y, K
  bool swapped;               // X is b and Y is a
  const Params& params;
  const float* bias;  // FP32, or null
};

// Finishes sums: scales, bias, accumulation, one rounding, store. Sum (i, j), which belongs to
// out[m + i, n + j], is sums[i * pitch + j].
void finish(const Problem& problem, const float* sums, int64_t pitch, int64_t m, int64_t rows,
            int64_t n, int64_t cols);

// Problems with at most this many columns go to multiply_skinny.
constexpr int64_t kSkinnyCols = 8;

// Streams X once, decoding in registers. cols <= kSkinnyCols.
void multiply_skinny(const Problem& problem);

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory aligned to cache lines that grows and is reused: fresh pages cost as much as the packing
// that fills them.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free(data_); }

  template <typename T>
  T* reserve(int64_t count) {
    const size_t bytes = (size_t)round_up(count * (int64_t)sizeof(T), 4096);
    if (bytes > capacity_) {
      free(data_);
      capacity_ = 0;
      data_ = std::aligned_alloc(4096, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = bytes;
    }
    return (T*)data_;
  }

 private:
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace mpkernels::scaled_mm
