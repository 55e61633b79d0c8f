// One thread: two divisions. The time is the launch.
#include "ops/compute_scale/scale_rule.cuh"

extern "C" __global__ void __launch_bounds__(32)
    mpk_compute_scale(const __grid_constant__ mpkernels::compute_scale::ScaleParams p) {
  if (threadIdx.x != 0) return;
  const auto scales =
      mpkernels::compute_scale::scales_of(*p.amax, p.rule, p.previous ? *p.previous : 1.0f);
  *p.quant_scale = scales.quant;
  *p.dequant_scale = scales.dequant;
}

namespace mpkernels::compute_scale {

static const Kernel kKernel MPK_KERNEL_ENTRY(mpk_compute_scale);

void compute_scale_cuda(const ScaleParams& params, Stream stream) {
  launch(kKernel, {{1}, {32}}, params, stream);
}

}  // namespace mpkernels::compute_scale
