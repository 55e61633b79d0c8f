// Reading a tensor as rows of adjacent elements without copying it.
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

}  // namespace mpkernels
