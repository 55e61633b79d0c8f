// scaled_mm on GPUs without FP8 instructions (sm_80, 86, 87): FP8 is decoded to FP16 in registers
// and multiplied by m16n8k16 with FP32 sums. See mma_kernel.cuh.
//
// What is gained over BF16 operands is memory; the ceiling is that of FP16. Decoding is exact: both
// formats are subsets of FP16, E4M3 after a factor of 2^-8, which the epilogue takes back.
//
// The 4 codes of a register are at k, k + 1, k + 2, k + 3. m16n8k16 wants pairs of neighbours of a
// row of 16, but any order of K will do if a and b have the same: the first of the two instructions
// for 32 bytes takes the low 16 bytes as pairs (k + 1, k + 3) and (k, k + 2), which need no byte
// permutation to be taken apart.
//
// A step of a warp with 64 x 32 of out: 128 HMMA and 24 LDSM, 8 LDGSTS; 10 operations decode 4 E4M3
// codes, 3 decode 4 E5M2 codes. sm_80's sums are FP32, so there is nothing to promote.
#include "device/ptx/mma.cuh"
#include "ops/scaled_mm/mma_instances.cuh"
#include "ops/scaled_mm/sm80.h"

namespace mpkernels::scaled_mm::sm80 {

// The FP16 pair of the codes in bytes 1 and 3.
template <Fp8 kFormat>
__device__ __forceinline__ uint32_t decode(uint32_t codes) {
  if constexpr (kFormat == Fp8::kE5M2) return codes & 0xff00ff00u;
  // S.EEEE.MMM -> S.0EEEE.MMM0000000: the exponent's bias goes from 7 to 15, hence the 2^-8.
  const uint32_t magnitude = codes >> 1 & 0x3f803f80u;
  // The NaN code, 0x3f80 by now, alone carries into bit 14: the exponent then is FP16's 31.
  const uint32_t nan = magnitude + 0x00800080u & 0x40004000u;
  return codes & 0x80008000u | magnitude | nan;
}

template <Fp8 kA, Fp8 kB>
struct Mma {
  static constexpr float kFactor =
      (kA == Fp8::kE4M3 ? 256.0f : 1.0f) * (kB == Fp8::kE4M3 ? 256.0f : 1.0f);
  struct A {
    uint32_t v[2][4];
  };
  struct B {
    uint32_t v[2][2];
  };
  static __device__ __forceinline__ A prepare_a(const uint32_t (&codes)[4]) {
    A a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a.v[i / 2][i % 2] = decode<kA>(codes[i]);
      a.v[i / 2][i % 2 + 2] = decode<kA>(codes[i] << 8);
    }
    return a;
  }
  static __device__ __forceinline__ B prepare_b(uint32_t low, uint32_t high) {
    return {{{decode<kB>(low), decode<kB>(low << 8)}, {decode<kB>(high), decode<kB>(high << 8)}}};
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const A& a, const B& b,
                                                  const float (&c)[4]) {
    ptx::mma_f16(d, a.v[0], b.v[0], c);
    ptx::mma_f16(d, a.v[1], b.v[1], d);
  }
};

}  // namespace mpkernels::scaled_mm::sm80

MPK_MMA_KERNELS(sm80, fast, false)

namespace mpkernels::scaled_mm::sm80 {

static const Kernel kKernels[kMmaTileCount][kPairs] = MPK_MMA_TABLE(sm80, fast);

const char* why_not(const Product& p, const DeviceFacts&) { return mma_why_not(p); }

int64_t workspace_bytes(const Product&, const DeviceFacts&) { return 0; }

std::string describe(const Product& p, const DeviceFacts& facts) {
  return describe_mma("sm80", plan(p, facts), facts);
}

void run(const Product& p, const DeviceFacts& facts, Workspace, Stream stream) {
  launch_mma(kKernels, p, plan(p, facts), stream);
}

}  // namespace mpkernels::scaled_mm::sm80
