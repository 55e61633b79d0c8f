// One read of x in 16-byte accesses, whatever its alignment: segments start at aligned addresses,
// and only the accesses that reach over the ends of a row fall back to single elements.
#include "device/high_precision.cuh"
#include "device/ptx/load_store.cuh"
#include "device/reduce.cuh"
#include "ops/amax/amax_cuda.h"

namespace mpkernels::amax {
namespace {

using device::Words;

// `first`: index in the row of the first element at `address`, which may lie before or past its
// ends.
template <HighPrecision kInput>
__device__ uint32_t ragged_max(const char* address, int64_t first, int64_t columns) {
  using Element = typename Words<kInput>::Element;
  constexpr Element kMagnitude = (Element)Words<kInput>::kMagnitudes;
  uint32_t most = 0;
  for (int i = 0; i < 16 / (int)sizeof(Element); ++i)
    if (first + i >= 0 && first + i < columns)
      most = max(most, (uint32_t)(((const Element*)address)[i] & kMagnitude));
  return most;
}

template <HighPrecision kInput>
__device__ __forceinline__ uint32_t max_of(uint32_t most, const uint4& v) {
  using W = Words<kInput>;
  most = W::max(most, v.x & W::kMagnitudes);
  most = W::max(most, v.y & W::kMagnitudes);
  most = W::max(most, v.z & W::kMagnitudes);
  return W::max(most, v.w & W::kMagnitudes);
}

template <HighPrecision kInput>
__device__ __forceinline__ uint32_t segment_max(const AmaxParams& p, int64_t row, int64_t segment,
                                                uint32_t most) {
  using Element = typename Words<kInput>::Element;
  constexpr int kPerAccess = 16 / sizeof(Element);
  constexpr int kPerSegment = kSegmentBytes / sizeof(Element);
  const char* begin = (const char*)p.x + row * p.pitch * (int64_t)sizeof(Element);
  const int before = (int)((uintptr_t)begin % 16);
  const int lane = threadIdx.x % device::kWarp;
  const int64_t first = segment * kPerSegment - before / (int)sizeof(Element);
  const char* address = begin - before + segment * kSegmentBytes + lane * 16;
  if (first >= 0 && first + kPerSegment <= p.columns) {
    uint4 v[kAmaxUnroll];
#pragma unroll
    for (int i = 0; i < kAmaxUnroll; ++i) v[i] = ptx::load_once(address + i * 512);
#pragma unroll
    for (int i = 0; i < kAmaxUnroll; ++i) most = max_of<kInput>(most, v[i]);
    return most;
  }
#pragma unroll 1
  for (int i = 0; i < kAmaxUnroll; ++i, address += 512) {
    const int64_t at = first + (i * device::kWarp + lane) * kPerAccess;
    const bool whole = at >= 0 && at + kPerAccess <= p.columns;
    if (whole)
      most = max_of<kInput>(most, ptx::load_once(address));
    else
      most = Words<kInput>::max(most, ragged_max<kInput>(address, at, p.columns));
  }
  return most;
}

template <HighPrecision kInput>
__device__ __forceinline__ void amax(const AmaxParams& p) {
  uint32_t most = 0;
  const int64_t warps = (int64_t)gridDim.x * kAmaxWarps;
  int64_t unit = (int64_t)blockIdx.x * kAmaxWarps + threadIdx.x / device::kWarp;
  for (; unit < p.units; unit += warps) {
    const int64_t row = p.units == p.segments ? 0 : unit / p.segments;
    most = segment_max<kInput>(p, row, unit - row * p.segments, most);
  }
  __shared__ uint32_t warp_max[kAmaxWarps];
  device::publish_warp_max(Words<kInput>::widest(most), warp_max);
  __syncthreads();
  if (threadIdx.x >= device::kWarp) return;
  most = device::block_max<kAmaxWarps>(warp_max);
  if (threadIdx.x != 0) return;
  if (p.combine)
    atomicMax(p.result, most);
  else
    p.result[blockIdx.x] = most;
}

}  // namespace
}  // namespace mpkernels::amax

#define MPK_AMAX(name, input)                                                  \
  extern "C" __global__ void __launch_bounds__(mpkernels::amax::kAmaxThreads)  \
      mpk_amax_##name(const __grid_constant__ mpkernels::amax::AmaxParams p) { \
    mpkernels::amax::amax<mpkernels::HighPrecision::input>(p);                 \
  }
MPK_AMAX(f32, kFloat32)
MPK_AMAX(bf16, kBFloat16)
MPK_AMAX(f16, kFloat16)

namespace mpkernels::amax {

// In the order of HighPrecision.
static const Kernel kKernels[] = {MPK_KERNEL_ENTRY(mpk_amax_f32), MPK_KERNEL_ENTRY(mpk_amax_bf16),
                                  MPK_KERNEL_ENTRY(mpk_amax_f16)};

static void launch_amax(const Rows& x, HighPrecision input, const AmaxPlan& plan, uint32_t* result,
                        bool combine, Stream stream) {
  if (plan.shape.grid.x == 0) return;
  const int64_t columns = x.is_dense() ? x.rows * x.columns : x.columns;
  const AmaxParams params{x.data, columns, x.pitch, plan.segments, plan.units, result, combine};
  launch(kKernels[(int)input], plan.shape, params, stream);
}

void amax_cuda(const Rows& x, HighPrecision input, float* amax, const DeviceFacts& facts,
               Stream stream) {
  const AmaxPlan plan = plan_amax(x, input, facts);
  const bool combine = plan.shape.grid.x != 1;
  if (combine) set_zero(amax, sizeof(float), "amax", stream);
  launch_amax(x, input, plan, (uint32_t*)amax, combine, stream);
}

int partial_amaxes_cuda(const Rows& x, HighPrecision input, uint32_t* partials,
                        const DeviceFacts& facts, Stream stream) {
  const AmaxPlan plan = plan_amax(x, input, facts);
  launch_amax(x, input, plan, partials, /*combine=*/false, stream);
  return (int)plan.shape.grid.x;
}

}  // namespace mpkernels::amax
