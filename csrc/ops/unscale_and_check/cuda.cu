// One read and one write of each gradient, or one read where inv_loss_scale is exactly 1: there
// g * 1 is g, bit for bit, and only a NaN's payload could change. Results are checked as they are
// written, by their exponents.
#include "device/gradients.cuh"
#include "ops/unscale_and_check/unscale_and_check_cuda.h"

namespace mpkernels::unscale_and_check {
namespace {

using namespace device;

template <Pass kPass, typename P>
__device__ __forceinline__ bool pass_over_list(const P& p, float inv_loss_scale) {
  bool found = false;
  for_each_chunk<kGradientChunk>(p.grads.tensors, [&](const Chunk& chunk) {
    found |= with_gradient(p.grads, chunk, [&](auto format, auto* g) {
      return check_gradient<decltype(format)::value, kPass>(g, chunk.numel, inv_loss_scale);
    });
  });
  return found;
}

template <typename P>
__device__ __forceinline__ void unscale(const P& p) {
  const float inv_loss_scale = *p.inv_loss_scale;
  const bool found = inv_loss_scale == 1.0f ? pass_over_list<Pass::kCheck>(p, inv_loss_scale)
                                            : pass_over_list<Pass::kUnscale>(p, inv_loss_scale);
  raise_found_inf(p.found_inf, found);
}

}  // namespace
}  // namespace mpkernels::unscale_and_check

#define MPK_UNSCALE(suffix, bytes)                                                            \
  extern "C" __global__ void __launch_bounds__(mpkernels::kGradientThreads,                   \
                                               mpkernels::kGradientCtasPerSm)                 \
      mpk_unscale_and_check##suffix(                                                          \
          const __grid_constant__ mpkernels::unscale_and_check::Params<mpkernels::bytes> p) { \
    mpkernels::unscale_and_check::unscale(p);                                                 \
  }
MPK_UNSCALE(, kLargeParameters)
MPK_UNSCALE(_4k, kSmallParameters)

namespace mpkernels::unscale_and_check {

static const Kernel kKernels[] = {MPK_KERNEL_ENTRY(mpk_unscale_and_check_4k),
                                  MPK_KERNEL_ENTRY(mpk_unscale_and_check)};

template <int kBytes>
static void launch_all(const GradientList& grads, const float* inv_loss_scale, float* found_inf,
                       const DeviceFacts& facts, Stream stream) {
  for (const auto& [span, shape] : plan_unscale_and_check<kBytes>(grads.numels, facts)) {
    Params<kBytes> p{};
    fill_gradients(p.grads, grads, span);
    p.inv_loss_scale = inv_loss_scale, p.found_inf = found_inf;
    launch(kKernels[kBytes > kSmallParameters], shape, p, stream);
  }
}

void unscale_and_check_cuda(const GradientList& grads, const float* inv_loss_scale,
                            float* found_inf, const DeviceFacts& facts, Stream stream) {
  constexpr int kSmallCapacity = decltype(Params<kSmallParameters>::grads)::kCapacity;
  if (wants_large_table(grads.numels.size(), kSmallCapacity, facts))
    launch_all<kLargeParameters>(grads, inv_loss_scale, found_inf, facts, stream);
  else
    launch_all<kSmallParameters>(grads, inv_loss_scale, found_inf, facts, stream);
}

}  // namespace mpkernels::unscale_and_check
