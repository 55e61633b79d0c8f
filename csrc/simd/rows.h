// A tensor as rows of adjacent elements.
#pragma once

#include <cstdint>

namespace mpkernels {

struct Rows {
  const void* data;
  int64_t rows, columns;
  int64_t pitch;    // elements from a row to the next; >= 0, may be less than columns (expanded)
  bool transposed;  // the tensor is the (columns, rows) transpose of these rows

  bool is_dense() const { return rows <= 1 || pitch == columns; }
};

// FP8 codes to write: rows of a matrix, each with room up to a multiple of 16 bytes, or one row.
struct CodeRows {
  uint8_t* data;  // null: not wanted
  int64_t pitch;  // bytes from a row to the next
};

}  // namespace mpkernels
