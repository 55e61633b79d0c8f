// out (M, N) = a (M, K) . b (N, K)^T in E4M3 for sm_90a, M and N multiples of 128, K of 128. One
// 128 x 128 tile for each CTA: a warpgroup whose first thread feeds a ring of kStages stages by
// TMA, two warpgroups that multiply 64 rows each by wgmma. With CLUSTER=2, pairs of CTAs along M
// share their B tile: each loads half of it and multicasts it to both.
//
// The macros are places to break it; the tests do.
#include <cstdint>

#ifndef CLUSTER
#define CLUSTER 1
#endif
#if CLUSTER == 1
#define CLUSTER_DIMS
#else
#define CLUSTER_DIMS __cluster_dims__(1, CLUSTER, 1)
#endif
#ifndef EXPECTED_BYTES
#define EXPECTED_BYTES (2 * kTileBytes)
#endif
#ifndef PRODUCER_PARITY
#define PRODUCER_PARITY (phase ^ 1)
#endif
#ifndef CONSUMER_PARITY
#define CONSUMER_PARITY phase
#endif
#ifndef SWIZZLE
#define SWIZZLE 1  // 128 bytes
#endif
#ifndef WGMMA_FENCE
#define WGMMA_FENCE asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#endif
#ifndef LEFT_PENDING
#define LEFT_PENDING 1  // wgmma groups: the stage before the present one has been read
#endif
#ifndef LAST_WAIT
#define LAST_WAIT asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory")
#endif
#ifndef LAST_SYNC
#define LAST_SYNC sync_cluster()
#endif
#ifndef SMALL
#define SMALL 40  // registers of the producer
#endif

constexpr int kTile = 128, kStages = 4, kTileBytes = kTile * 128;

struct alignas(64) TensorMap {
  uint8_t opaque[128];
};

__device__ __forceinline__ uint32_t smem_addr(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], "
      "%1;\n@done bra READY;\nbra AGAIN;\n"
      "READY:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void load(uint32_t to, const TensorMap& map, uint32_t barrier, int x,
                                     int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%3, %4}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

__device__ __forceinline__ void load_for_both(uint32_t to, const TensorMap& map, uint32_t barrier,
                                              int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::"
      "cluster"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "h"(uint16_t(3))
      : "memory");
}

// The consumers of every CTA of the cluster release a stage to every producer.
__device__ __forceinline__ void release(uint32_t barrier) {
#if CLUSTER == 1
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#else
#pragma unroll
  for (int rank = 0; rank < CLUSTER; rank++)
    asm volatile(
        "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
        "r"(rank)
        : "memory");
#endif
}

__device__ __forceinline__ void sync_cluster() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#endif
}

// K-major tile of 128-byte rows: groups of eight rows 1024 bytes apart.
__device__ __forceinline__ uint64_t descriptor(uint32_t start) {
  return uint64_t((start & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(SWIZZLE) << 62;
}

#define EIGHT(i)                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])

__device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.u32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%"
      "25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,"
      "%55,%56,%57,%58,%59,%60,"
      "%61,%62,%63}, %64, %65, add, 1, 1;\n}"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
      : "l"(a), "l"(b), "r"(uint32_t(add)));
}

// The compiler may not move accesses to the accumulators across this.
__device__ __forceinline__ void keep(float (&d)[64]) {
#pragma unroll
  for (int i = 0; i < 64; i++) asm volatile("" : "+f"(d[i])::"memory");
}

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(384, 1)
    gemm(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
         float* out, int n, int k) {
  extern __shared__ __align__(1024) uint8_t smem[];  // kStages x (A, B)
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const int row0 = blockIdx.y * kTile, col0 = blockIdx.x * kTile, steps = k / 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(smem_addr(full + i)));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(empty + i)),
                   "n"(2 * CLUSTER));
    }
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  sync_cluster();
  int stage = 0;
  uint32_t phase = 0;
  if (warpgroup == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(SMALL));
    if (threadIdx.x == 256) {
      for (int step = 0; step < steps; step++) {
        const uint32_t a = smem_addr(smem + stage * 2 * kTileBytes), b = a + kTileBytes,
                       bar = smem_addr(full + stage);
        wait(smem_addr(empty + stage), PRODUCER_PARITY);
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar),
                     "r"(EXPECTED_BYTES)
                     : "memory");
        load(a, map_a, bar, step * 128, row0);
#if CLUSTER == 1
        load(b, map_b, bar, step * 128, col0);
#else
        uint32_t rank;
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
        load_for_both(b + rank * (kTileBytes / 2), map_b, bar, step * 128,
                      col0 + int(rank) * kTile / 2);
#endif
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[64];
    int before = -1;
    for (int step = 0; step < steps; step++) {
      const uint32_t a = smem_addr(smem + stage * 2 * kTileBytes) + warpgroup * 64 * 128;
      const uint32_t b = smem_addr(smem + stage * 2 * kTileBytes) + kTileBytes;
      wait(smem_addr(full + stage), CONSUMER_PARITY);
      keep(d);
      WGMMA_FENCE;
#pragma unroll
      for (int i = 0; i < 4; i++)
        multiply(d, descriptor(a + 32 * i), descriptor(b + 32 * i), step + i > 0);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      keep(d);
      asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT_PENDING) : "memory");
      if (before >= 0 && threadIdx.x % 128 == 0) release(smem_addr(empty + before));
      before = stage;
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
    keep(d);
    LAST_WAIT;
    const int lane = threadIdx.x % 32, row = row0 + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 16; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        *reinterpret_cast<float2*>(out + size_t(row + 8 * half) * n + col0 + 8 * i +
                                   lane % 4 * 2) = {d[4 * i + 2 * half], d[4 * i + 2 * half + 1]};
  }
  LAST_SYNC;  // the other CTA may still arrive at barriers of this one
}
