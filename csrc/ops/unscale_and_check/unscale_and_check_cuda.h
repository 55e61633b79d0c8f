// unscale_and_check_ on a GPU: the kernel's parameters, the plan of its launches, the launcher.
// Contract: mpkernels/ops/unscale_and_check/__init__.py.
#pragma once

#include "device/gradients.h"

namespace mpkernels::unscale_and_check {

template <int kBytes>
struct Params {
  GradientTable<kBytes, 32> grads;
  const float* inv_loss_scale;
  float* found_inf;
};
static_assert(sizeof(Params<kLargeParameters>) <= kLargeParameters);
static_assert(sizeof(Params<kSmallParameters>) <= kSmallParameters);

struct Launch {
  TableSpan span;
  LaunchShape shape;
};

// One launch for as many tensors as a table holds.
template <int kBytes>
std::vector<Launch> plan_unscale_and_check(const std::vector<int64_t>& numels,
                                           const DeviceFacts& facts) {
  std::vector<Launch> launches;
  for (const TableSpan& span :
       plan_tables(numels, kGradientChunk, decltype(Params<kBytes>::grads)::kCapacity))
    launches.push_back(
        {span, persistent(span.chunks, kGradientThreads, kGradientCtasPerSm, facts)});
  return launches;
}

void unscale_and_check_cuda(const GradientList& grads, const float* inv_loss_scale,
                            float* found_inf, const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::unscale_and_check
