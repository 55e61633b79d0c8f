// scaled_mm on sm_89 (RTX 40, L4, L40S): the plan. Kernels: sm89.cu.
#pragma once

#include "ops/scaled_mm/mma_plan.h"

namespace mpkernels::scaled_mm::sm89 {

// NVIDIA L40S data sheet: 733 TFLOP/s dense FP8 on 142 SMs at 2.52 GHz are 1024 multiply-adds a
// clock and SM. GeForce cards do half of it with FP32 sums, which the plan cannot know; there
// fetching is twice as easily hidden. L2: 16 bytes a clock and SM is assumed, not measured.
constexpr MmaRates kRates{1024, 16, 0};

const char* why_not(const Product& p, const DeviceFacts& facts);
std::string describe(const Product& p, const DeviceFacts& facts);
int64_t workspace_bytes(const Product& p, const DeviceFacts& facts);
void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream);

inline MmaPlan plan(const Product& p, const DeviceFacts& facts) {
  return plan_mma(p, facts, kRates, /*can_promote=*/true);
}

}  // namespace mpkernels::scaled_mm::sm89
