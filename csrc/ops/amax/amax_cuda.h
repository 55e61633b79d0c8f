// amax on a GPU: the plan of its launch. Kernels: cuda.cu.
#pragma once

#include <algorithm>
#include <cstdint>

#include "host/launch.h"
#include "simd/formats.h"
#include "simd/rows.h"

namespace mpkernels::amax {

// A warp's unit of work is a segment of a row: 4 accesses of 16 bytes a lane, 2 KB, counted from
// the aligned address at or before the row's first element.
constexpr int kAmaxThreads = 512;
constexpr int kAmaxWarps = kAmaxThreads / 32;
constexpr int kAmaxUnroll = 4;
constexpr int kMostPartials = 1024;  // blocks: 4 on each of 256 SMs
constexpr int64_t kSegmentBytes = kAmaxUnroll * 32 * 16;

struct AmaxParams {
  const void* x;
  int64_t columns, pitch;
  int64_t segments;  // a row
  int64_t units;     // rows * segments
  uint32_t* result;  // FP32 bits
  bool combine;      // atomically, in result[0]; else block i stores result[i]
};

struct AmaxPlan {
  LaunchShape shape;  // no blocks if x is empty
  int64_t segments, units;
};

// Blocks walk over the units, all of them resident at once.
inline AmaxPlan plan_amax(const Rows& x, HighPrecision input, const DeviceFacts& facts) {
  if (x.rows * x.columns == 0) return {{{0}, {kAmaxThreads}}, 0, 0};
  const bool dense = x.is_dense();
  const int64_t element = input == HighPrecision::kFloat32 ? 4 : 2;
  const int64_t columns = dense ? x.rows * x.columns : x.columns, rows = dense ? 1 : x.rows;
  // A row that starts in the middle of 16 bytes may reach into one more.
  const int64_t segments = (columns * element + (16 - element) + kSegmentBytes - 1) / kSegmentBytes;
  const int64_t units = rows * segments;
  const int64_t resident = facts.sm_count * (threads_per_sm(facts.architecture) / kAmaxThreads);
  const int64_t most = std::min<int64_t>(resident, kMostPartials);
  const int64_t blocks = std::min((units + kAmaxWarps - 1) / kAmaxWarps, most);
  return {{{(uint32_t)blocks}, {kAmaxThreads}}, segments, units};
}

// amax: one float32.
void amax_cuda(const Rows& x, HighPrecision input, float* amax, const DeviceFacts& facts,
               Stream stream);

// partials: FP32 bits, one a block. Returns how many; 0 if x is empty.
int partial_amaxes_cuda(const Rows& x, HighPrecision input, uint32_t* partials,
                        const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::amax
