// The peer that quantize is counted against (tests/test_gpu_evidence.py): cast and transpose in the
// classic design, a 32 x 33 tile in shared memory, one element a thread and access, a float maximum
// that is reduced by shuffles. It saturates by the conversion; NaN is lost from amax, as in its
// models.
#include <cstdint>

struct CastTransposeParams {
  const uint16_t* x;  // bf16
  uint8_t *q, *q_t;
  const float* quant_scale;
  int* amax;
  int64_t rows, columns;
};

static __device__ uint8_t to_e4m3(float f) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(0.0f), "f"(f));
  return (uint8_t)codes;
}

// Blocks of 32 x 8 threads.
extern "C" __global__ void __launch_bounds__(256)
    cast_transpose(const __grid_constant__ CastTransposeParams p) {
  __shared__ uint8_t tile[32][33];
  __shared__ float warp_amax[8];
  const float quant_scale = *p.quant_scale;
  const int64_t row = blockIdx.y * 32, column = blockIdx.x * 32;
  float amax = 0.0f;
  for (int r = threadIdx.y; r < 32; r += 8) {
    if (row + r >= p.rows || column + threadIdx.x >= p.columns) continue;
    const int64_t at = (row + r) * p.columns + column + threadIdx.x;
    const float x = __uint_as_float((uint32_t)p.x[at] << 16);
    amax = fmaxf(amax, fabsf(x));
    const uint8_t code = to_e4m3(x * quant_scale);
    p.q[at] = code;
    tile[r][threadIdx.x] = code;
  }
  __syncthreads();
  for (int c = threadIdx.y; c < 32; c += 8)
    if (column + c < p.columns && row + threadIdx.x < p.rows)
      p.q_t[(column + c) * p.rows + row + threadIdx.x] = tile[threadIdx.x][c];
  for (int step = 16; step > 0; step /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, step));
  if (threadIdx.x == 0) warp_amax[threadIdx.y] = amax;
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    for (int i = 1; i < 8; ++i) amax = fmaxf(amax, warp_amax[i]);
    atomicMax(p.amax, __float_as_int(amax));
  }
}
