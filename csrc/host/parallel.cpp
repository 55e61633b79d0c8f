#include "simd/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace mpkernels {

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body) {
  if (end - begin <= grain) {
    if (end > begin) body(begin, end);
    return;
  }
  torch::stable::parallel_for(begin, end, grain, body);
}

int num_threads() { return (int)torch::stable::get_num_threads(); }

}  // namespace mpkernels
