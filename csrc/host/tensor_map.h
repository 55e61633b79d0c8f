// Tensor maps: what TMA knows of a matrix in global memory. A plan describes one in plain data;
// encode() has the driver turn it into the 128 bytes that kernels take by value. No link against
// libcuda: the driver's encoder is found at run time. No Torch here.
#pragma once

#include <cstdint>

namespace mpkernels {

// By value in a kernel's parameters. The driver wants its CUtensorMap aligned to 64 bytes.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

enum class MapElement : uint32_t { kByte, kFloat16, kBFloat16, kFloat32 };
constexpr int element_bytes(MapElement e) {
  return e == MapElement::kByte ? 1 : e == MapElement::kFloat32 ? 4 : 2;
}

// A row-major matrix and the box of it that an instruction moves, which lies in shared memory as
// dense rows of at most 128 bytes, swizzled over 128: the 16-byte chunk c of row r is at c ^ (r %
// 8). One layout for the recording of launches, which keeps it in place of the opaque bytes: 128
// bytes, no padding.
struct MatrixMap {
  char mark[16] = {'m', 'p', 'k', ' ', 't', 'e', 'n', 's', 'o', 'r', ' ', 'm', 'a', 'p'};
  const void* address;  // a multiple of 16
  uint64_t rows, columns;
  uint64_t pitch_bytes;  // a multiple of 16, below 2^40
  uint32_t box_rows, box_columns;
  MapElement element;
  uint32_t unused[17] = {};

  bool operator==(const MatrixMap&) const = default;
};
static_assert(sizeof(MatrixMap) == sizeof(TensorMap));

// What TMA asks of a matrix in memory.
inline bool can_map(const void* address, int64_t pitch_bytes) {
  return (uintptr_t)address % 16 == 0 && pitch_bytes % 16 == 0 && pitch_bytes < (int64_t)1 << 40;
}

// Of the driver, or the last one that this thread encoded from the same description. Throws
// std::runtime_error if the driver refuses. While recording: the description itself.
TensorMap encode(const MatrixMap& description);

}  // namespace mpkernels
