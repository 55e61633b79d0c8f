// scaled_mm on sm_120 and sm_121 (RTX 50, RTX PRO, GB10): the block-scaled m16n8k32 at unit scales,
// since the plain FP8 instruction runs at half its rate there. See mma_kernel.cuh, and sm89.cu for
// what a step costs; a QMMA.SF takes the place of a QMMA.
#include "device/ptx/mma.cuh"
#include "ops/scaled_mm/mma_instances.cuh"
#include "ops/scaled_mm/sm120a.h"

namespace mpkernels::scaled_mm::sm120a {

template <Fp8 kA, Fp8 kB>
struct Mma : WholeFragments {
  static __device__ __forceinline__ void multiply(float (&d)[4], const A& a, const B& b,
                                                  const float (&c)[4]) {
    ptx::mma_fp8_unit_scaled<kA, kB>(d, a.v, b.v, c);
  }
};

}  // namespace mpkernels::scaled_mm::sm120a

MPK_MMA_KERNELS(sm120a, promote, true)
MPK_MMA_KERNELS(sm120a, fast, false)

namespace mpkernels::scaled_mm::sm120a {

static const Kernel kPromote[kMmaTileCount][kPairs] = MPK_MMA_TABLE(sm120a, promote);
static const Kernel kFast[kMmaTileCount][kPairs] = MPK_MMA_TABLE(sm120a, fast);

const char* why_not(const Product& p, const DeviceFacts&) { return mma_why_not(p); }

int64_t workspace_bytes(const Product&, const DeviceFacts&) { return 0; }

std::string describe(const Product& p, const DeviceFacts& facts) {
  return describe_mma("sm120a", plan(p, facts), facts);
}

void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream) {
  const MmaPlan chosen = plan(p, facts);
  launch_mma(chosen.promote ? kPromote : kFast, p, chosen, stream);
}

}  // namespace mpkernels::scaled_mm::sm120a
