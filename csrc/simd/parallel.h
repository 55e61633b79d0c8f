// Threads: torch's own pool, behind a declaration without Torch so that kernel files stay plain
// C++.
#pragma once

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

int num_threads();

}  // namespace mpkernels
