// The ring of stages between the producer, which has TMA fill them, and the consumers.
#pragma once

#include "device/ptx/cluster.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/tma.cuh"
#include "ops/scaled_mm/sm90a_scheduler.cuh"

namespace mpkernels::scaled_mm::sm90a {

constexpr int kWarpsPerWarpgroup = 4;

// Position in the ring. A stage's `full` barrier completes a phase when its bytes have arrived,
// its `empty` barrier when every warp of the consumers, of both CTAs of a cluster, has read them.
template <int kTile>
class Ring {
 public:
  static constexpr Tile kShape = kTiles[kTile];

  __device__ __forceinline__ explicit Ring(uint32_t shared) : shared_(shared) {}

  // By one thread, once.
  __device__ __forceinline__ void initialise(int cluster) const {
#pragma unroll
    for (int i = 0; i < kShape.stages; ++i) {
      ptx::init_barrier(full(i), 1);
      ptx::init_barrier(empty(i), kShape.consumers * kWarpsPerWarpgroup * cluster);
    }
    ptx::publish_barriers();
  }

  __device__ __forceinline__ uint32_t x() const { return shared_ + stage_ * kShape.stage_bytes(); }
  __device__ __forceinline__ uint32_t y() const { return x() + kShape.rows * kBlockK; }
  __device__ __forceinline__ uint32_t full() const { return full(stage_); }

  // The first round finds the stages empty: the phase before the first one counts as complete.
  __device__ __forceinline__ void wait_until_empty() const {
    ptx::wait(empty(stage_), parity_ ^ 1);
  }
  __device__ __forceinline__ void wait_until_full() const { ptx::wait(full(stage_), parity_); }

  // Lane r of each consumer warp tells CTA r of the cluster that a stage has been read.
  __device__ __forceinline__ void consume(int cluster) {
    tells_ = threadIdx.x % 32 < cluster;
    empty_there_ = tells_ ? ptx::address_in(threadIdx.x % 32, empty(0)) : 0;
  }
  __device__ __forceinline__ void release(int stage) const {
    if (tells_) ptx::arrive_in_cluster(empty_there_ + stage * 8);
  }

  __device__ __forceinline__ int stage() const { return stage_; }
  __device__ __forceinline__ void advance() {
    if (++stage_ == kShape.stages) stage_ = 0, parity_ ^= 1;
  }

 private:
  __device__ __forceinline__ uint32_t full(int i) const {
    return shared_ + kShape.barriers_at() + i * 8;
  }
  __device__ __forceinline__ uint32_t empty(int i) const { return full(kShape.stages + i); }

  uint32_t shared_;
  int stage_ = 0;
  uint32_t parity_ = 0;
  bool tells_ = false;
  uint32_t empty_there_ = 0;
};

// By one thread. In a cluster each CTA loads its own tile of one operand, and its half of the tile
// that both need, for both.
template <int kTile>
__device__ __forceinline__ void produce(const Params& p, Ring<kTile> ring) {
  constexpr Tile kShape = kTiles[kTile];
  constexpr bool kSharesX = kShape.shares_x();
  constexpr int kSharedRows = kSharesX ? kShape.rows : kShape.columns;
  ptx::prefetch(p.x);
  ptx::prefetch(p.y);
  const int half = p.cluster > 1 ? (int)ptx::cluster_rank() * (kSharedRows / 2) : 0;
  const TensorMap& own_map = kSharesX ? p.y : p.x;
  const TensorMap& shared_map = kSharesX ? p.x : p.y;
  Walk walk(p);
  for (Work work; walk.next<kSharesX>(p, work);) {
    const int x_row = work.x_tile * kShape.rows, y_row = work.y_tile * kShape.columns;
    const int own_row = kSharesX ? y_row : x_row, shared_row = (kSharesX ? x_row : y_row) + half;
#pragma unroll 1
    for (int k = work.k_begin; k < work.k_end; ++k, ring.advance()) {
      const uint32_t own = kSharesX ? ring.y() : ring.x();
      const uint32_t shared = (kSharesX ? ring.x() : ring.y()) + half * kBlockK;
      ring.wait_until_empty();
      ptx::arrive_expecting(ring.full(), kShape.stage_bytes());
      ptx::load_tile(own, own_map, ring.full(), k * kBlockK, own_row);
      if (p.cluster > 1)
        ptx::load_tile_to(3, shared, shared_map, ring.full(), k * kBlockK, shared_row);
      else
        ptx::load_tile(shared, shared_map, ring.full(), k * kBlockK, shared_row);
    }
  }
}

}  // namespace mpkernels::scaled_mm::sm90a
