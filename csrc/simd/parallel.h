// Threads: torch's own pool, behind a declaration without Torch so that kernel files stay plain
// C++.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace mpkernels {

// Elements of an elementwise pass that are worth a thread of their own: about 10 us of work at 4-16
// bytes an element.
constexpr int64_t kElementwiseGrain = 32768;

// Calls body(begin, end) on disjoint ranges that cover [begin, end). Serial if the range is within
// one grain.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body);

// shared = max(shared, mine), from several threads.
inline void raise_max(std::atomic<uint32_t>& shared, uint32_t mine) {
  uint32_t seen = shared.load();
  while (mine > seen && !shared.compare_exchange_weak(seen, mine)) {
  }
}

// The largest body(begin, end) over disjoint ranges that cover [0, size), or 0 if size is 0.
template <typename Body>
uint32_t parallel_max(int64_t size, int64_t grain, const Body& body) {
  std::atomic<uint32_t> shared{0};
  parallel_for(0, size, grain,
               [&](int64_t begin, int64_t end) { raise_max(shared, body(begin, end)); });
  return shared.load();
}

int num_threads();

}  // namespace mpkernels
