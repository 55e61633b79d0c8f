// A list of tensors, of any number and sizes, as one kernel parameter.
//
// Every tensor is cut into chunks, its last one shorter; a CTA takes chunks at the stride of the
// grid and finds the tensor of each by binary search. So one launch serves any list that fits the
// table, no list of blocks is copied to the device, and a graph that captured the launch holds all
// of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/launch.h"

namespace mpkernels {

// Bytes of parameters a kernel may have: CUDA 12.1 and driver 530 raised 4096 to 32764.
constexpr int kLargeParameters = 32764;
constexpr int kSmallParameters = 4096;

template <int kLists, int kCapacity>
struct TensorTable {
  void* data[kLists][kCapacity];        // [list][tensor]
  int64_t numel[kCapacity];             // may be 0: no chunk is found in such a tensor
  uint32_t first_chunk[kCapacity + 1];  // of each tensor; the one after the last is the total
  uint32_t count;
};

// How many tensors fit into `bytes` less `other`, the rest of the kernel's parameters, with `each`
// more bytes a tensor.
constexpr int table_capacity(int bytes, int lists, int other, int each = 0) {
  return (bytes - other - 2 * (int)sizeof(uint32_t)) /
         (lists * (int)sizeof(void*) + (int)sizeof(int64_t) + (int)sizeof(uint32_t) + each);
}

// A short list goes into 4 KB, of which the launch itself is cheaper.
inline bool wants_large_table(size_t tensors, size_t small_capacity, const DeviceFacts& facts) {
  return tensors > small_capacity && facts.parameter_bytes >= kLargeParameters;
}

// As many CTAs as are resident at once, or one for each piece of work if there are fewer.
inline LaunchShape persistent(uint32_t pieces, uint32_t threads, int ctas_per_sm,
                              const DeviceFacts& facts) {
  return {{std::min(pieces, (uint32_t)(facts.sm_count * ctas_per_sm))}, {threads}};
}

// The tensors of one launch.
struct TableSpan {
  size_t first, count;
  uint32_t chunks;
};

inline int64_t chunks_of(int64_t numel, int64_t chunk_elements) {
  return (numel + chunk_elements - 1) / chunk_elements;
}

// Cuts a list into launches of at most `capacity` tensors, leaving out those without an element.
inline std::vector<TableSpan> plan_tables(const std::vector<int64_t>& numels,
                                          int64_t chunk_elements, size_t capacity) {
  std::vector<TableSpan> spans;
  for (size_t first = 0; first < numels.size(); first += capacity) {
    const size_t count = std::min(capacity, numels.size() - first);
    int64_t chunks = 0;
    for (size_t t = first; t < first + count; ++t) chunks += chunks_of(numels[t], chunk_elements);
    if (chunks != 0) spans.push_back({first, count, (uint32_t)chunks});
  }
  return spans;
}

// data_of(list, tensor) is where a tensor's elements are.
template <int kLists, int kCapacity, typename DataOf>
void fill_table(TensorTable<kLists, kCapacity>& table, const std::vector<int64_t>& numels,
                int64_t chunk_elements, const TableSpan& span, const DataOf& data_of) {
  uint32_t chunks = 0;
  for (size_t slot = 0; slot < span.count; ++slot) {
    const size_t t = span.first + slot;
    for (int list = 0; list < kLists; ++list) table.data[list][slot] = data_of(list, t);
    table.numel[slot] = numels[t];
    table.first_chunk[slot] = chunks;
    chunks += (uint32_t)chunks_of(numels[t], chunk_elements);
  }
  table.first_chunk[span.count] = chunks;
  table.count = (uint32_t)span.count;
}

}  // namespace mpkernels
