// Reading and writing tensors as rows of adjacent elements without copying them.
#pragma once

#include "host/check.h"
#include "simd/rows.h"

namespace mpkernels {

// A contiguous tensor with any number of dimensions, or a 2-D one with adjacent elements along
// either dimension. One that is not 2-D gives a single row.
inline Rows rows_of(const char* name, const Tensor& t) {
  const void* data = t.const_data_ptr();
  if (t.dim() != 2) {
    MPK_CHECK(t.is_contiguous(), name, " must be contiguous where it is not 2-D");
    return {data, 1, t.numel(), t.numel(), false};
  }
  const int64_t rows = t.size(0), columns = t.size(1);
  if (t.is_contiguous()) return {data, rows, columns, columns, false};
  if (t.stride(1) == 1) return {data, rows, columns, t.stride(0), false};
  MPK_CHECK(t.stride(0) == 1, name, " must have adjacent elements along one dimension");
  return {data, columns, rows, t.stride(1), true};
}

// The codes of all of x, or of its transpose, as layout.py's new_fp8_matrix makes them.
inline CodeRows code_rows_of(const char* name, Tensor& codes, const Tensor& x, bool transposed) {
  MPK_CHECK(codes.numel() == x.numel(), name, " must have the size of x");
  auto* data = (uint8_t*)codes.mutable_data_ptr();
  if (x.numel() == 0) return {data, 0};
  if (x.dim() != 2) {
    MPK_CHECK(codes.is_contiguous(), name, " must be contiguous where x is not 2-D");
    return {data, codes.numel()};
  }
  MPK_CHECK(codes.size(0) == x.size(transposed) && codes.size(1) == x.size(!transposed) &&
                (codes.size(1) <= 1 || codes.stride(1) == 1) && codes.stride(0) % 16 == 0 &&
                (uintptr_t)data % 16 == 0,
            name, " must have rows that begin at multiples of 16 bytes");
  return {data, codes.stride(0)};
}

}  // namespace mpkernels
