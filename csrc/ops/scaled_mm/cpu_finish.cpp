// The epilogue, in FP32 and in the contract's order, with one rounding at the end.
#include "ops/scaled_mm/problem.h"
#include "simd/bits.h"

namespace mpkernels::scaled_mm {
namespace {

// rows x cols results; bias belongs to the first column, or is null.
template <typename Out>
MPK_INLINE void store_rows_body(const float* __restrict__ sums, int64_t pitch,
                                Out* __restrict__ out, int64_t out_pitch, int64_t rows,
                                int64_t cols, float scale, const float* __restrict__ bias,
                                bool accumulate) {
  for (int64_t i = 0; i < rows; ++i, sums += pitch, out += out_pitch) {
    if (bias != nullptr && accumulate) {
      for (int64_t j = 0; j < cols; ++j)
        from_float(sums[j] * scale + bias[j] + to_float(out[j]), out[j]);
    } else if (bias != nullptr) {
      for (int64_t j = 0; j < cols; ++j) from_float(sums[j] * scale + bias[j], out[j]);
    } else if (accumulate) {
      for (int64_t j = 0; j < cols; ++j) from_float(sums[j] * scale + to_float(out[j]), out[j]);
    } else {
      for (int64_t j = 0; j < cols; ++j) from_float(sums[j] * scale, out[j]);
    }
  }
}
MPK_MULTIVERSION((template <typename Out>), void, store_rows,
                 (const float* sums, int64_t pitch, Out* out, int64_t out_pitch, int64_t rows,
                  int64_t cols, float scale, const float* bias, bool accumulate),
                 (sums, pitch, out, out_pitch, rows, cols, scale, bias, accumulate))

template <typename Out>
void store(const Problem& problem, const float* sums, int64_t pitch, int64_t m, int64_t rows,
           int64_t n, int64_t cols) {
  const Params& p = problem.params;
  store_rows(sums, pitch, (Out*)p.out + m * p.out_pitch + n, p.out_pitch, rows, cols, p.scale,
             problem.bias == nullptr ? nullptr : problem.bias + n, p.accumulate);
}

}  // namespace

void finish(const Problem& problem, const float* sums, int64_t pitch, int64_t m, int64_t rows,
            int64_t n, int64_t cols) {
  switch (problem.params.out_dtype) {
    case Output::kFloat32:
      return store<float>(problem, sums, pitch, m, rows, n, cols);
    case Output::kBFloat16:
      return store<BFloat16>(problem, sums, pitch, m, rows, n, cols);
    case Output::kFloat16:
      return store<Half>(problem, sums, pitch, m, rows, n, cols);
  }
}

}  // namespace mpkernels::scaled_mm
