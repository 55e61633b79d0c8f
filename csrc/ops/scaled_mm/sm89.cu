// scaled_mm on sm_89: mma.sync m16n8k32 on FP8. See mma_kernel.cuh.
//
// A 128 x 128 tile by 8 warps of 64 x 32: 64 registers of sums, 64 more of a step's sums where they
// are promoted, 48 of fragments; 3 stages of 32 KB. A step of a warp is 64 QMMA, 24 LDSM, 8 LDGSTS,
// one barrier, and 64 FADD of promotion.
#include "device/ptx/mma.cuh"
#include "ops/scaled_mm/mma_instances.cuh"
#include "ops/scaled_mm/sm89.h"

namespace mpkernels::scaled_mm::sm89 {

template <Fp8 kA, Fp8 kB>
struct Mma : WholeFragments {
  static __device__ __forceinline__ void multiply(float (&d)[4], const A& a, const B& b,
                                                  const float (&c)[4]) {
    ptx::mma_fp8<kA, kB>(d, a.v, b.v, c);
  }
};

}  // namespace mpkernels::scaled_mm::sm89

MPK_MMA_KERNELS(sm89, promote, true)
MPK_MMA_KERNELS(sm89, fast, false)

namespace mpkernels::scaled_mm::sm89 {

static const Kernel kPromote[kMmaTileCount][kPairs] = MPK_MMA_TABLE(sm89, promote);
static const Kernel kFast[kMmaTileCount][kPairs] = MPK_MMA_TABLE(sm89, fast);

const char* why_not(const Product& p, const DeviceFacts&) { return mma_why_not(p); }

int64_t workspace_bytes(const Product&, const DeviceFacts&) { return 0; }

std::string describe(const Product& p, const DeviceFacts& facts) {
  return describe_mma("sm89", plan(p, facts), facts);
}

void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream) {
  const MmaPlan chosen = plan(p, facts);
  launch_mma(chosen.promote ? kPromote : kFast, p, chosen, stream);
}

}  // namespace mpkernels::scaled_mm::sm89
