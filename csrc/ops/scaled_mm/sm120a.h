// scaled_mm on sm_120 and sm_121: the plan. Kernels: sm120a.cu.
#pragma once

#include "ops/scaled_mm/mma_plan.h"

namespace mpkernels::scaled_mm::sm120a {

// NVIDIA RTX Blackwell architecture whitepaper: 838 TFLOP/s dense FP8 with FP16 sums on 170 SMs at
// 2.41 GHz are 1024 multiply-adds a clock and SM, which the block-scaled instruction reaches with
// FP32 sums. L2: 16 bytes a clock and SM is assumed, not measured.
constexpr MmaRates kRates{1024, 16, 0};

const char* why_not(const Product& p, const DeviceFacts& facts);
std::string describe(const Product& p, const DeviceFacts& facts);
int64_t workspace_bytes(const Product& p, const DeviceFacts& facts);
void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream);

inline MmaPlan plan(const Product& p, const DeviceFacts& facts) {
  return plan_mma(p, facts, kRates, /*can_promote=*/true);
}

}  // namespace mpkernels::scaled_mm::sm120a
