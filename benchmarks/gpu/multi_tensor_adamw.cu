// What adamw_update_'s kernel is counted against: an AdamW in the classic multi-tensor-apply
// design, as in apex and its descendants. One block for each chunk of 65536 elements, found in a
// table of blocks that fits 4 KB of parameters; each thread has four elements in flight, at the
// stride of the block; bias corrections are divisors. The gradient is unscaled and the copy written
// as by ours.
#include <cstdint>

namespace {

constexpr int kDepth = 5, kTensors = 30, kBlocks = 320;
constexpr int kChunk = 65536, kThreads = 512, kIlp = 4;

struct Table {
  void* addresses[kDepth][kTensors];  // master, exp_avg, exp_avg_sq, gradient, copy
  int64_t sizes[kTensors];
  unsigned char block_to_tensor[kBlocks];
  int block_to_chunk[kBlocks];
};

struct Params {
  Table table;
  const float* inv_loss_scale;
  const float* found_inf;
  float lr, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2;
};

__device__ __forceinline__ float widen(uint16_t bf16) {
  return __uint_as_float((uint32_t)bf16 << 16);
}

__device__ __forceinline__ uint16_t narrow(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    baseline_multi_tensor_adamw(const __grid_constant__ Params p) {
  if (*p.found_inf != 0.0f) return;
  const float inv_loss_scale = *p.inv_loss_scale;
  const int tensor = p.table.block_to_tensor[blockIdx.x];
  const int64_t begin = (int64_t)p.table.block_to_chunk[blockIdx.x] * kChunk;
  const int64_t left = p.table.sizes[tensor] - begin;
  const int n = left < kChunk ? (int)left : kChunk;
  float* const master = (float*)p.table.addresses[0][tensor] + begin;
  float* const exp_avg = (float*)p.table.addresses[1][tensor] + begin;
  float* const exp_avg_sq = (float*)p.table.addresses[2][tensor] + begin;
  const uint16_t* const grad = (const uint16_t*)p.table.addresses[3][tensor] + begin;
  uint16_t* const copy = (uint16_t*)p.table.addresses[4][tensor] + begin;

  for (int first = 0; first < n; first += kThreads * kIlp) {
    float w[kIlp], m[kIlp], v[kIlp], g[kIlp];
#pragma unroll
    for (int j = 0; j < kIlp; ++j) {
      const int i = first + threadIdx.x + j * kThreads;
      w[j] = m[j] = v[j] = g[j] = 0.0f;
      if (i < n) w[j] = master[i], m[j] = exp_avg[i], v[j] = exp_avg_sq[i], g[j] = widen(grad[i]);
    }
#pragma unroll
    for (int j = 0; j < kIlp; ++j) {
      g[j] *= inv_loss_scale;
      m[j] = p.beta1 * m[j] + (1.0f - p.beta1) * g[j];
      v[j] = p.beta2 * v[j] + (1.0f - p.beta2) * g[j] * g[j];
      const float m_hat = m[j] / p.bias_correction1, v_hat = v[j] / p.bias_correction2;
      const float update = m_hat / (sqrtf(v_hat) + p.eps) + p.weight_decay * w[j];
      w[j] -= p.lr * update;
    }
#pragma unroll
    for (int j = 0; j < kIlp; ++j) {
      const int i = first + threadIdx.x + j * kThreads;
      if (i < n) master[i] = w[j], exp_avg[i] = m[j], exp_avg_sq[i] = v[j], copy[i] = narrow(w[j]);
    }
  }
}
