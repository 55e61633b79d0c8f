// A warp reads a history from its old end to its new one and writes it back one place on; the
// maximum comes from the same read.
#include "device/reduce.cuh"
#include "ops/compute_scale/scale_rule.cuh"
#include "ops/update_delayed_scales/update_delayed_scales_cuda.h"

namespace mpkernels::update_delayed_scales {
namespace {

constexpr int kUnroll = 8;
constexpr uint32_t kInfBits = 0x7f800000u;

// An amax orders like its bits as a signed integer: NaN is the largest and a negative number less
// than any amax, and neither gives a scale.
__device__ __forceinline__ int bits_of(float amax) { return __float_as_int(amax); }

__device__ void update(const History& h, const DelayedParams& p) {
  const int lane = threadIdx.x % device::kWarp;
  const float running = h.amaxes[0];
  const float newest = (__float_as_uint(running) & kInfBits) == kInfBits ? 0.0f : running;
  __syncwarp();
  int most = bits_of(newest);
  constexpr int64_t kChunk = kUnroll * device::kWarp;
  // Places [begin, begin + kChunk) get what stood one before: reads of later turns lie below.
  for (int64_t begin = h.length / kChunk * kChunk; begin >= 0; begin -= kChunk) {
    float moved[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t to = begin + i * device::kWarp + lane;
      moved[i] = 0.0f;
      if (to <= 1)
        moved[i] = to == 1 ? newest : 0.0f;
      else if (to <= h.length)
        moved[i] = h.amaxes[to - 1];
      // The oldest, at length - 1, counts and then leaves.
      if (to >= 1 && to <= h.length) most = max(most, bits_of(moved[i]));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t to = begin + i * device::kWarp + lane;
      if (to < h.length) h.amaxes[to] = moved[i];
    }
    __syncwarp();
  }
  most = __reduce_max_sync(device::kWholeWarp, most);
  if (lane != 0) return;
  const float amax = p.most_recent ? newest : __int_as_float(most);
  const auto scales =
      compute_scale::scales_of(amax, {h.format, p.margin, p.power_of_two}, *h.quant_scale);
  *h.quant_scale = scales.quant;
  *h.dequant_scale = scales.dequant;
}

}  // namespace
}  // namespace mpkernels::update_delayed_scales

extern "C" __global__ void __launch_bounds__(mpkernels::update_delayed_scales::kThreads)
    mpk_update_delayed_scales(
        const __grid_constant__ mpkernels::update_delayed_scales::DelayedParams p) {
  const bool ended = *p.step_ended != 0.0f;
  __syncthreads();  // everyone has asked
  const int warps = blockDim.x / mpkernels::device::kWarp;
  if (ended)
    for (int i = threadIdx.x / mpkernels::device::kWarp; i < p.count; i += warps)
      mpkernels::update_delayed_scales::update(p.histories[i], p);
  if (p.last && threadIdx.x == 0) *p.step_ended = 0.0f;
}

namespace mpkernels::update_delayed_scales {

static const Kernel kKernel MPK_KERNEL_ENTRY(mpk_update_delayed_scales);

void update_delayed_scales_cuda(const DelayedParams& params, Stream stream) {
  launch(kKernel, plan_update_delayed_scales(params.count), params, stream);
}

}  // namespace mpkernels::update_delayed_scales
