// scaled_mm on sm_80, 86 and 87: the plan. Kernels: sm80.cu.
#pragma once

#include "ops/scaled_mm/mma_plan.h"

namespace mpkernels::scaled_mm::sm80 {

// NVIDIA A100 architecture whitepaper: 312 TFLOP/s dense FP16 on 108 SMs at 1.41 GHz are 1024
// multiply-adds a clock and SM; decoding E4M3, at 16 lanes of integer arithmetic a quarter of an
// SM, takes twice as long. L2: 5120 bytes a clock for all.
constexpr MmaRates kRates{1024, 48, 22};

const char* why_not(const Product& p, const DeviceFacts& facts);
std::string describe(const Product& p, const DeviceFacts& facts);
int64_t workspace_bytes(const Product& p, const DeviceFacts& facts);
void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream);

inline MmaPlan plan(const Product& p, const DeviceFacts& facts) {
  return plan_mma(p, facts, kRates, /*can_promote=*/false);
}

}  // namespace mpkernels::scaled_mm::sm80
