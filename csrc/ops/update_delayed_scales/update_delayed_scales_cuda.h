// update_delayed_scales_ on a GPU: parameters and plan. Kernel: cuda.cu.
#pragma once

#include <algorithm>
#include <cstdint>

#include "host/launch.h"
#include "ops/compute_scale/compute_scale_cuda.h"

namespace mpkernels::update_delayed_scales {

constexpr int kThreads = 1024;

struct History {
  float* amaxes;  // newest first; slot 0 collects the running step
  int64_t length;
  float *quant_scale, *dequant_scale;
  Fp8 format;
};

// As many as the parameters of every driver hold: 4096 bytes.
constexpr int kMostHistories = 100;

struct DelayedParams {
  float* step_ended;
  int count;
  int margin;
  bool power_of_two, most_recent;
  bool last;  // of the launches: step_ended becomes 0
  History histories[kMostHistories];
};
static_assert(sizeof(DelayedParams) <= 4096);

// One block, so that nobody still asks step_ended when it is cleared: a warp takes a history at a
// time. A layer has three.
inline LaunchShape plan_update_delayed_scales(int count) {
  return {{1}, {(uint32_t)std::clamp(32 * count, 32, kThreads)}};
}

void update_delayed_scales_cuda(const DelayedParams& params, Stream stream);

}  // namespace mpkernels::update_delayed_scales
