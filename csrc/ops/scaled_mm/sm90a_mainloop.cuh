// The products of one tile by a consumer warpgroup.
#pragma once

#include "device/ptx/wgmma.cuh"
#include "ops/scaled_mm/sm90a_pipeline.cuh"

namespace mpkernels::scaled_mm::sm90a {

constexpr int kStepK = 32;  // of one wgmma: 32 bytes

// The sums of a warpgroup: slices of 64 rows.
template <int kTile>
struct Sums {
  static constexpr Tile kShape = kTiles[kTile];
  float of[kShape.slices()][kShape.columns / 2];
};

// Slice `slice` of the stage times all its columns, added to d, or put there if `first`.
template <int kTile, Fp8 kX, Fp8 kY, int kCount>
__device__ __forceinline__ void multiply_stage(float (&d)[kCount], const Ring<kTile>& ring,
                                               int warpgroup, int slice, bool first) {
  constexpr Tile kShape = kTiles[kTile];
  const int row = (warpgroup * kShape.slices() + slice) * 64;
  const uint64_t x = ptx::operand_descriptor(ring.x() + row * kBlockK);
  const uint64_t y = ptx::operand_descriptor(ring.y());
#pragma unroll
  for (int step = 0; step < kBlockK / kStepK; ++step)
    ptx::multiply_tiles<kShape.columns, kX, kY>(d, x + step * kStepK / 16, y + step * kStepK / 16,
                                                !first || step > 0);
}

// Hopper's tensor cores align the products of an FP8 wgmma and its accumulator to the largest of
// them and cut below some 13 bits, so a long sum loses what is small next to it. Here the tensor
// core sums 128 of K, and FP32 additions in registers do the rest (DeepSeek-V3, section 3.3.2).
// While this warpgroup adds, the tensor core works for the other one, or the other block.
template <int kTile, Fp8 kX, Fp8 kY>
__device__ __forceinline__ void multiply_promoting(Sums<kTile>& sums, Ring<kTile>& ring,
                                                   const Work& work, int warpgroup) {
  constexpr Tile kShape = kTiles[kTile];
  constexpr int kCount = kShape.columns / 2;
#pragma unroll
  for (int slice = 0; slice < kShape.slices(); ++slice)
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums.of[slice][i] = 0.f;
#pragma unroll 1
  for (int k = work.k_begin; k < work.k_end; ++k, ring.advance()) {
    ring.wait_until_full();
#pragma unroll
    for (int slice = 0; slice < kShape.slices(); ++slice) {
      float product[kCount];
      ptx::hold(product);
      ptx::fence_products();
      multiply_stage<kTile, kX, kY>(product, ring, warpgroup, slice, true);
      ptx::commit_products();
      ptx::wait_for_products<0>();
      ptx::hold(product);
      if (slice == kShape.slices() - 1) ring.release(ring.stage());
#pragma unroll
      for (int i = 0; i < kCount; ++i) sums.of[slice][i] += product[i];
    }
  }
}

// One stage's products stay in flight while the next one's are issued; a stage is released once the
// following one has been issued.
template <int kTile, Fp8 kX, Fp8 kY>
__device__ __forceinline__ void multiply_fast(Sums<kTile>& sums, Ring<kTile>& ring,
                                              const Work& work, int warpgroup) {
  static_assert(kTiles[kTile].slices() == 1);
  int before = -1;
#pragma unroll 1
  for (int k = work.k_begin; k < work.k_end; ++k, ring.advance()) {
    ring.wait_until_full();
    ptx::hold(sums.of[0]);
    ptx::fence_products();
    multiply_stage<kTile, kX, kY>(sums.of[0], ring, warpgroup, 0, k == work.k_begin);
    ptx::commit_products();
    ptx::wait_for_products<1>();
    if (before >= 0) ring.release(before);
    before = ring.stage();
  }
  ptx::wait_for_products<0>();
  ptx::hold(sums.of[0]);
  ring.release(before);
}

}  // namespace mpkernels::scaled_mm::sm90a
