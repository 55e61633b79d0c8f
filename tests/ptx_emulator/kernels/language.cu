// What compilers emit beyond straight code: local arrays, calls that are not inlined, a switch, printf, assert,
// constant tables, 64-bit and half arithmetic, warp collectives, shared-memory atomics.
#include <cooperative_groups.h>
#include <cstdint>
#include <cstdio>
#include <cuda_fp16.h>
#undef NDEBUG
#include <cassert>

__constant__ float weights[4] = {1.0f, 2.0f, 3.0f, 4.0f};
__device__ int visits = 0;

__device__ __noinline__ int collatz(int n, int* steps) {
  *steps = 0;
  while (n != 1) {
    n = n % 2 ? 3 * n + 1 : n / 2;
    ++*steps;
  }
  return *steps;
}

__device__ __noinline__ double mix(double a, float b, int64_t c) { return a * b + double(c); }

extern "C" __global__ void language(int* out, int n, int which) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  int table[16];
  for (int k = 0; k < 16; k++) table[k] = k * i;
  table[which % 16] = i;
  int result = table[(i + which) % 16], steps = 0;
  switch (i % 8) {
    case 0: result += collatz(i + 1, &steps); break;
    case 1: result *= 3; break;
    case 2: result -= int(weights[(i / 8) % 4]); break;
    case 3: result ^= 0x55; break;
    case 4: result = int(mix(i, 0.5f, int64_t(1) << 20)); break;
    case 5: result = __popc(result) + __clz(i); break;
    case 6: result = int(__half2float(__hadd(__int2half_rn(i), __float2half(0.5f))) * 2.0f); break;
    default: result = int(uint64_t(i) * 0x123456789abcdefull >> 40); break;
  }
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, result & 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(&visits, 1);
    printf("block %d: %d odd, %.2f %s\n", int(blockIdx.x), total, 1.5, "ok");
  }
  assert(n < 1000000);
  auto warp = cooperative_groups::coalesced_threads();
  if (i < n) out[i] = result + int(warp.size());
}
