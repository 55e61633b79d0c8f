// out (M, N) = a (M, K) . b (N, K)^T in E4M3: 64 x 64 tiles, 4 warps of 32 x 32, two stages of K = 64 by cp.async,
// 16-byte chunks placed by xor so that ldmatrix has no bank conflicts. M, N multiples of 64, K of 64.
#include <cstdint>

constexpr int kBlock = 64, kStageBytes = kBlock * 64;

__device__ __forceinline__ uint32_t smem_addr(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// The byte of row r, 16-byte chunk c of a [64, 64] tile.
__device__ __forceinline__ int chunk_at(int r, int c) { return r * 64 + (c ^ (r / 2 % 4)) * 16; }

extern "C" __global__ void __launch_bounds__(128) gemm(const uint8_t* __restrict__ a, const uint8_t* __restrict__ b,
                                                       float* __restrict__ out, int n, int k) {
  __shared__ __align__(128) uint8_t smem_a[2][kStageBytes], smem_b[2][kStageBytes];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row0 = blockIdx.y * kBlock, col0 = blockIdx.x * kBlock, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
  float acc[2][4][4] = {};

  auto load = [&](int stage, int k0) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int r = (threadIdx.x + i * 128) / 4, c = threadIdx.x % 4;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_addr(&smem_a[stage][chunk_at(r, c)])),
                   "l"(a + size_t(row0 + r) * k + k0 + c * 16));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_addr(&smem_b[stage][chunk_at(r, c)])),
                   "l"(b + size_t(col0 + r) * k + k0 + c * 16));
    }
    asm volatile("cp.async.commit_group;");
  };

  const int steps = k / 64;
  load(0, 0);
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) {
      load((step + 1) % 2, (step + 1) * 64);
      asm volatile("cp.async.wait_group 1;");
    } else {
      asm volatile("cp.async.wait_group 0;");
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {  // K = 32 each
      uint32_t fa[2][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int r = warp_row + i * 16 + lane % 16, c = half * 2 + lane / 16;
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(fa[i][0]), "=r"(fa[i][1]), "=r"(fa[i][2]), "=r"(fa[i][3])
                     : "r"(smem_addr(&smem_a[step % 2][chunk_at(r, c)])));
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int r = warp_col + j * 8 + lane % 8, c = half * 2 + lane / 8 % 2;
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(fb[j][0]), "=r"(fb[j][1])
                     : "r"(smem_addr(&smem_b[step % 2][chunk_at(r, c)])));
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          asm volatile(
              "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
              : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
              : "r"(fa[i][0]), "r"(fa[i][1]), "r"(fa[i][2]), "r"(fa[i][3]), "r"(fb[j][0]), "r"(fb[j][1]));
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = row0 + warp_row + i * 16 + lane / 4 + half * 8, c = col0 + warp_col + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(out + size_t(r) * n + c) = {acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
      }
}
