// TMA and clusters, for the emulator's tests: a swizzled transpose, sums through distributed shared
// memory, a multicast load, and tensor maps that the device makes.
#include <cooperative_groups.h>
#include <cuda.h>

#include <cstdint>

namespace cg = cooperative_groups;

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ void barrier_init(uint64_t* bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count)
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ void expect_bytes(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
               "r"(bytes)
               : "memory");
}

__device__ void wait_phase(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra "
      "WAIT;\nDONE:\n}" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
}

__device__ void load_2d(void* tile, const void* map, int x, int y, uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3}], [%4];" ::"r"(shared_address(tile)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(bar))
      : "memory");
}

__device__ void load_2d_multicast(void* tile, const void* map, int x, int y, uint64_t* bar,
                                  uint16_t ctas) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::"
      "cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(tile)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)), "h"(ctas)
      : "memory");
}

__device__ void store_2d(const void* map, int x, int y, const void* tile) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(x), "r"(y), "r"(shared_address(tile))
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

constexpr int kTile = 64;

// Where element (row, column) of a 64 x 64 tile of 2-byte elements lies under the 128-byte swizzle.
__device__ int swizzled(int row, int column) {
  return row * kTile + ((column / 8 ^ row % 8) * 8 + column % 8);
}

// y (columns, rows) = x (rows, columns)^T; one tile for each CTA of 256 threads.
extern "C" __global__ void transpose(const __grid_constant__ CUtensorMap x,
                                     const __grid_constant__ CUtensorMap y) {
  __shared__ alignas(1024) uint16_t in[kTile * kTile];
  __shared__ alignas(1024) uint16_t out[kTile * kTile];
  __shared__ uint64_t bar;
  int row = blockIdx.y * kTile, column = blockIdx.x * kTile;
  if (threadIdx.x == 0) {
    barrier_init(&bar, 1);
    expect_bytes(&bar, sizeof(in));
    load_2d(in, &x, column, row, &bar);
  }
  __syncthreads();
  wait_phase(&bar, 0);
  for (int i = threadIdx.x; i < kTile * kTile; i += blockDim.x)
    out[swizzled(i % kTile, i / kTile)] = in[swizzled(i / kTile, i % kTile)];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    store_2d(&y, row, column, out);
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

// out[cluster] = the sum of the cluster's n values; each CTA of 4 reads the others' partial sums.
extern "C" __global__ void __cluster_dims__(4, 1, 1)
    cluster_sum(const float* x, float* out, int n) {
  __shared__ float partial;
  cg::cluster_group cluster = cg::this_cluster();
  if (threadIdx.x == 0) partial = 0;
  __syncthreads();
  int cluster_number = blockIdx.x / cluster.num_blocks();
  for (int i = cluster.thread_rank(); i < n; i += cluster.num_threads())
    atomicAdd(&partial, x[cluster_number * n + i]);
  cluster.sync();
  if (cluster.thread_rank() == 0) {
    float sum = 0;
    for (int rank = 0; rank < int(cluster.num_blocks()); rank++)
      sum += *cluster.map_shared_rank(&partial, rank);
    out[cluster_number] = sum;
  }
#ifndef NO_LAST_SYNC
  cluster.sync();  // nobody's memory may go before it has been read
#endif
}

// Each CTA of a cluster of two loads one half of a 64 x 64 tile for both; both write the whole of
// it.
extern "C" __global__ void __cluster_dims__(2, 1, 1)
    multicast(const __grid_constant__ CUtensorMap x, uint16_t* out) {
  __shared__ alignas(1024) uint16_t tile[2][kTile / 2 * kTile];
  __shared__ uint64_t bar;
  cg::cluster_group cluster = cg::this_cluster();
  int rank = cluster.block_rank();
  if (threadIdx.x == 0) {
    barrier_init(&bar, 1);
    expect_bytes(&bar, sizeof(tile));
  }
  cluster.sync();
  int row = blockIdx.x / 2 * kTile + rank * kTile / 2;
  if (threadIdx.x == 0) load_2d_multicast(tile[rank], &x, 0, row, &bar, 3);
  wait_phase(&bar, 0);
  for (int i = threadIdx.x; i < kTile * kTile; i += blockDim.x)
    out[blockIdx.x * kTile * kTile + i] = tile[0][i];
  cluster.sync();
}

struct Member {
  const uint16_t* data;
  int rows, columns;
};

struct Group {
  Member members[4];
};

// Each CTA copies one of several matrices, of rows and columns of their own, to out; it makes a
// tensor map for it in maps. Columns are a multiple of 8, at most 64 of them and 64 rows are
// copied.
extern "C" __global__ void grouped(const __grid_constant__ CUtensorMap pattern,
                                   const __grid_constant__ Group group, CUtensorMap* maps,
                                   uint16_t* out) {
  __shared__ alignas(1024) uint16_t tile[kTile * kTile];
  __shared__ alignas(128) CUtensorMap map;
  __shared__ uint64_t bar;
  Member member = group.members[blockIdx.x];
  if (threadIdx.x < 32) {
    reinterpret_cast<uint32_t*>(&map)[threadIdx.x] =
        reinterpret_cast<const uint32_t*>(&pattern)[threadIdx.x];
    __syncwarp();
    if (threadIdx.x == 0) {
      uint32_t at = shared_address(&map);
      asm volatile(
          "tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(at),
          "l"(member.data)
          : "memory");
      asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(at),
                   "r"(member.columns)
                   : "memory");
      asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(at),
                   "r"(member.rows)
                   : "memory");
      asm volatile(
          "tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], 0, %1;" ::"r"(at),
          "l"(uint64_t(2 * member.columns))
          : "memory");
    }
    __syncwarp();
    asm volatile(
        "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned "
        "[%0], [%1], 128;" ::"l"(maps + blockIdx.x),
        "r"(shared_address(&map))
        : "memory");
  }
  if (threadIdx.x == 0) {
#ifndef NO_ACQUIRE
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(maps + blockIdx.x)
                 : "memory");
#endif
    barrier_init(&bar, 1);
    expect_bytes(&bar, sizeof(tile));
    load_2d(tile, maps + blockIdx.x, 0, 0, &bar);
  }
  __syncthreads();
  wait_phase(&bar, 0);
  for (int i = threadIdx.x; i < kTile * kTile; i += blockDim.x)
    out[blockIdx.x * kTile * kTile + i] = tile[i];
}
