// Which tile a CTA works on next: a static walk of the persistent grid over (split of K, tile).
#pragma once

#include "device/ptx/cluster.cuh"
#include "ops/scaled_mm/sm90a.h"

namespace mpkernels::scaled_mm::sm90a {

struct Work {
  int x_tile, y_tile;  // this CTA's
  int k_begin, k_end;  // in blocks of K
  int split;
};

// Tiles in groups of p.group along X, each walked along Y: the tiles that run at the same time
// then form a near square, whose rows and columns fit L2.
class Walk {
 public:
  __device__ __forceinline__ explicit Walk(const Params& p)
      : unit_(blockIdx.x / p.cluster), rank_(p.cluster > 1 ? ptx::cluster_rank() : 0) {}

  template <bool kSharesX>
  __device__ __forceinline__ bool next(const Params& p, Work& work) {
    if (unit_ >= p.units) return false;
    const uint32_t tiles = p.x_tiles * p.y_tiles;
    const uint32_t split = unit_ / tiles, tile = unit_ - split * tiles;
    const uint32_t per_group = p.group * p.y_tiles;
    const uint32_t group = tile / per_group, in_group = tile - group * per_group;
    const uint32_t first = group * p.group;
    const uint32_t height = min(p.group, p.x_tiles - (int)first);
    const uint32_t y = in_group / height, x = first + in_group - y * height;
    work.x_tile = kSharesX ? x : x * p.cluster + rank_;
    work.y_tile = kSharesX ? y * p.cluster + rank_ : y;
    work.split = split;
    work.k_begin = split * p.k_blocks_per_split;
    work.k_end = min(work.k_begin + p.k_blocks_per_split, p.k_blocks);
    unit_ += gridDim.x / p.cluster;
    return true;
  }

 private:
  uint32_t unit_, rank_;
};

}  // namespace mpkernels::scaled_mm::sm90a
