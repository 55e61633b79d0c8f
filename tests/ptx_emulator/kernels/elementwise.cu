// Kernels without matrix instructions: a vectorised AdamW step, an amax reduction, a quantise-and-transpose.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cstdint>

struct AdamW {
  float *master, *m, *v;
  const float* grad;
  const float* found_inf;
  int n;
  float lr, beta1, beta2, eps, weight_decay, inv_loss_scale;
};

extern "C" __global__ void adamw(const __grid_constant__ AdamW p) {
  if (*p.found_inf != 0.0f) return;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n / 4; i += gridDim.x * blockDim.x) {
    float4 w4 = reinterpret_cast<float4*>(p.master)[i], m4 = reinterpret_cast<float4*>(p.m)[i];
    float4 v4 = reinterpret_cast<float4*>(p.v)[i], g4 = reinterpret_cast<const float4*>(p.grad)[i];
    float *w = &w4.x, *m = &m4.x, *v = &v4.x, *g = &g4.x;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float grad = g[k] * p.inv_loss_scale;
      m[k] = p.beta1 * m[k] + (1.0f - p.beta1) * grad;
      v[k] = p.beta2 * v[k] + (1.0f - p.beta2) * grad * grad;
      w[k] -= p.lr * (m[k] / (sqrtf(v[k]) + p.eps) + p.weight_decay * w[k]);
    }
    reinterpret_cast<float4*>(p.master)[i] = w4;
    reinterpret_cast<float4*>(p.m)[i] = m4;
    reinterpret_cast<float4*>(p.v)[i] = v4;
  }
}

extern "C" __global__ void amax(const __nv_bfloat16* __restrict__ x, int n, unsigned* __restrict__ out) {
  __shared__ float partial[32];
  float most = 0.0f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    most = fmaxf(most, fabsf(__bfloat162float(x[i])));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) partial[warp] = most;
#ifndef NO_BARRIER
  __syncthreads();
#endif
  if (warp == 0) {
    most = lane < blockDim.x / 32 ? partial[lane] : 0.0f;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (lane == 0) atomicMax(out, __float_as_uint(most));
  }
}

// 64 x 64 tiles, 32 x 8 threads. The tile's pitch of 68 bytes leaves two-way conflicts when it is read by columns.
extern "C" __global__ void quantize_transpose(const __nv_bfloat16* __restrict__ x, const float* __restrict__ quant_scale,
                                              uint8_t* __restrict__ q, uint8_t* __restrict__ q_t, int rows, int cols) {
  __shared__ uint8_t tile[64][68];
  const float by = *quant_scale;
  const int col = blockIdx.x * 64 + threadIdx.x * 2;
  for (int k = threadIdx.y; k < 64; k += 8) {
    const int row = blockIdx.y * 64 + k;
    if (row >= rows || col >= cols) continue;
    float2 f = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(x + size_t(row) * cols + col));
    f.x *= by;
    f.y *= by;
    const __nv_fp8x2_storage_t pair = __nv_cvt_float2_to_fp8x2(f, __NV_SATFINITE, __NV_E4M3);
    *reinterpret_cast<__nv_fp8x2_storage_t*>(q + size_t(row) * cols + col) = pair;
    tile[k][threadIdx.x * 2] = pair & 0xff;
    tile[k][threadIdx.x * 2 + 1] = pair >> 8;
  }
  __syncthreads();
  const int out_col = blockIdx.y * 64 + threadIdx.x * 2;
  for (int k = threadIdx.y; k < 64; k += 8) {
    const int row = blockIdx.x * 64 + k;
    if (row >= cols || out_col >= rows) continue;
    const uint16_t pair = tile[threadIdx.x * 2][k] | tile[threadIdx.x * 2 + 1][k] << 8;
    *reinterpret_cast<uint16_t*>(q_t + size_t(row) * rows + out_col) = pair;
  }
}
