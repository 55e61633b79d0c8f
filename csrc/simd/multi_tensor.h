// A list of tensors, of any number and sizes, as one parallel loop.
//
// Each tensor is cut into chunks of kChunkElements, its last one shorter. The cut depends on the
// sizes alone, never on the number of threads, so a result per chunk (a partial sum) is the same
// bytes under any setting. Threads share the work by elements, not by tensors: a thread runs the
// chunks that begin in its part of the tensors laid end to end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "simd/formats.h"
#include "simd/parallel.h"

namespace mpkernels {

// The bytes of a dense tensor; a list may mix dtypes. Void is void or const void.
template <typename Void>
struct TensorData {
  Void* data;
  int64_t numel;
  HighPrecision type;
};
template <typename Void>
using TensorDataList = std::vector<TensorData<Void>>;

// 64 KiB of fp32: small against a thread's share of any list worth threads, so that shares are
// even; large against the call of a kernel.
constexpr int64_t kChunkElements = 16384;

struct Chunk {
  int64_t index;       // counted over the whole list: the place of a partial result
  int64_t tensor;      // which tensor of the list
  int64_t begin, end;  // which of its elements
};

class ChunkedList {
 public:
  explicit ChunkedList(const std::vector<int64_t>& numels) : first_element_{0}, first_chunk_{0} {
    first_element_.reserve(numels.size() + 1);
    first_chunk_.reserve(numels.size() + 1);
    for (const int64_t numel : numels) {
      first_element_.push_back(first_element_.back() + numel);
      first_chunk_.push_back(first_chunk_.back() + (numel + kChunkElements - 1) / kChunkElements);
    }
  }

  template <typename Void>
  explicit ChunkedList(const TensorDataList<Void>& tensors) : ChunkedList(numels_of(tensors)) {}

  int64_t numel() const { return first_element_.back(); }
  int64_t num_chunks() const { return first_chunk_.back(); }

  // Calls body once for each chunk, from several threads, in no fixed order.
  void for_each(const std::function<void(const Chunk&)>& body) const {
    parallel_for(0, numel(), kElementwiseGrain,
                 [&](int64_t begin, int64_t end) { run_range(begin, end, body); });
  }

 private:
  template <typename Void>
  static std::vector<int64_t> numels_of(const TensorDataList<Void>& tensors) {
    std::vector<int64_t> numels;
    numels.reserve(tensors.size());
    for (const auto& tensor : tensors) numels.push_back(tensor.numel);
    return numels;
  }

  // The chunks that begin in [begin, end), counted in elements of the whole list.
  void run_range(int64_t begin, int64_t end, const std::function<void(const Chunk&)>& body) const {
    const auto after = std::upper_bound(first_element_.begin(), first_element_.end(), begin);
    const int64_t num_tensors = (int64_t)first_element_.size() - 1;
    for (int64_t t = after - first_element_.begin() - 1; t < num_tensors && first_element_[t] < end;
         ++t) {
      const int64_t first = first_element_[t], numel = first_element_[t + 1] - first;
      int64_t k = begin > first ? (begin - first + kChunkElements - 1) / kChunkElements : 0;
      const int64_t stop = std::min(numel, end - first);
      for (; k * kChunkElements < stop; ++k)
        body({first_chunk_[t] + k, t, k * kChunkElements,
              std::min(numel, (k + 1) * kChunkElements)});
    }
  }

  std::vector<int64_t> first_element_;  // [t]: elements before tensor t; the last is the total
  std::vector<int64_t> first_chunk_;    // [t]: chunks before tensor t; the last is the total
};

}  // namespace mpkernels
