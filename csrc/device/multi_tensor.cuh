// Walking over the chunks of a TensorTable.
#pragma once

#include "device/tensor_table.h"

namespace mpkernels::device {

struct Chunk {
  uint32_t tensor;  // which slot of the table
  int64_t begin;    // which of its elements
  int numel;
};

template <typename Table>
__device__ __forceinline__ uint32_t num_chunks(const Table& table) {
  return table.first_chunk[table.count];
}

// `not_before`: a tensor at or before that of the chunk, as the last chunk's, or 0.
template <int kChunkElements, typename Table>
__device__ __forceinline__ Chunk find_chunk(const Table& table, uint32_t chunk,
                                            uint32_t not_before) {
  uint32_t low = not_before, high = table.count;  // first_chunk[low] <= chunk < first_chunk[high]
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (table.first_chunk[middle] <= chunk)
      low = middle;
    else
      high = middle;
  }
  const int64_t begin = (int64_t)(chunk - table.first_chunk[low]) * kChunkElements;
  const int64_t left = table.numel[low] - begin;
  return {low, begin, left < kChunkElements ? (int)left : kChunkElements};
}

// Calls body(Chunk) for the chunks of this CTA.
template <int kChunkElements, typename Table, typename Body>
__device__ __forceinline__ void for_each_chunk(const Table& table, const Body& body) {
  const uint32_t chunks = num_chunks(table);
  uint32_t tensor = 0;
#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < chunks; index += gridDim.x) {
    const Chunk chunk = find_chunk<kChunkElements>(table, index, tensor);
    tensor = chunk.tensor;
    body(chunk);
  }
}

// True if addresses can be accessed `bytes` (a power of two) at a time; or several addresses or-ed.
__device__ __forceinline__ bool is_aligned(uint64_t addresses, int bytes) {
  return (addresses & (uint64_t)(bytes - 1)) == 0;
}

}  // namespace mpkernels::device
