// grad_norm_and_check on a GPU: the kernels' parameters, the plan of their launches, the launcher.
// Contract: mpkernels/ops/grad_norm_and_check/__init__.py.
//
// Chunk c adds to sum c mod kSums, in the order of the chunks, whichever CTA does it; then one CTA
// adds up the sums. So the order depends on the sizes in the list alone, not on the GPU, and the
// workspace has one size.
#pragma once

#include "device/gradients.h"

namespace mpkernels::grad_norm_and_check {

// Several for each CTA of the largest GPU (148 SMs x 4), so that shares differ by little.
constexpr int kSums = 4096;

template <int kBytes>
struct Params {
  GradientTable<kBytes, 48> grads;
  const float* inv_loss_scale;
  float* found_inf;
  double* sums;
  uint32_t filled;  // how many of the sums hold those of an earlier launch for the same list
};
static_assert(sizeof(Params<kLargeParameters>) <= kLargeParameters);
static_assert(sizeof(Params<kSmallParameters>) <= kSmallParameters);

struct Launch {
  TableSpan span;
  LaunchShape shape;
  uint32_t filled;
};

template <int kBytes>
std::vector<Launch> plan_grad_norm_and_check(const std::vector<int64_t>& numels,
                                             const DeviceFacts& facts) {
  std::vector<Launch> launches;
  uint32_t filled = 0;
  for (const TableSpan& span :
       plan_tables(numels, kGradientChunk, decltype(Params<kBytes>::grads)::kCapacity)) {
    const uint32_t sums = std::min<uint32_t>(span.chunks, kSums);
    launches.push_back(
        {span, persistent(sums, kGradientThreads, kGradientCtasPerSm, facts), filled});
    filled = std::max(filled, sums);
  }
  return launches;
}

struct FinishParams {
  const double* sums;
  const float* inv_loss_scale;
  float* found_inf;
  float* norm;
  uint32_t filled;  // 0: there are no elements
};

struct Arguments {
  const float* inv_loss_scale;
  float* found_inf;
  float* norm;
  double* sums;  // workspace: kSums
};

void grad_norm_and_check_cuda(const GradientList& grads, const Arguments& arguments,
                              const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::grad_norm_and_check
