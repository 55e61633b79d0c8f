// The kernels of one file, mpk_scaled_mm_<file>_<tile>_<promote|fast>_<a>_<b>, and how they are
// found. The file gives Mma<kA, kB> in namespace mpkernels::scaled_mm::<file>.
#pragma once

#include "ops/scaled_mm/mma_kernel.cuh"

#define MPK_MMA_KERNEL(file, tile, index, accum, promote, pair, a, b)                            \
  extern "C" __global__ void __launch_bounds__(mpkernels::scaled_mm::kMmaTiles[index].threads()) \
      mpk_scaled_mm_##file##_##tile##_##accum##_##pair(                                          \
          const __grid_constant__ mpkernels::scaled_mm::MmaParams p) {                           \
    using Mma = mpkernels::scaled_mm::file::Mma<mpkernels::Fp8::a, mpkernels::Fp8::b>;           \
    mpkernels::scaled_mm::scaled_mm<index, Mma, promote>(p);                                     \
  }
#define MPK_MMA_PAIRS(file, tile, index, accum, promote)                     \
  MPK_MMA_KERNEL(file, tile, index, accum, promote, e4m3_e4m3, kE4M3, kE4M3) \
  MPK_MMA_KERNEL(file, tile, index, accum, promote, e4m3_e5m2, kE4M3, kE5M2) \
  MPK_MMA_KERNEL(file, tile, index, accum, promote, e5m2_e4m3, kE5M2, kE4M3) \
  MPK_MMA_KERNEL(file, tile, index, accum, promote, e5m2_e5m2, kE5M2, kE5M2)
// In the order of kMmaTiles.
#define MPK_MMA_KERNELS(file, accum, promote)     \
  MPK_MMA_PAIRS(file, 128x128, 0, accum, promote) \
  MPK_MMA_PAIRS(file, 64x64, 1, accum, promote)   \
  MPK_MMA_PAIRS(file, 16x64, 2, accum, promote)

// Initialises a Kernel[kMmaTileCount][kPairs], indexed by tile and pair_of.
#define MPK_MMA_ROW(file, tile, accum)                                    \
  {MPK_KERNEL_ENTRY(mpk_scaled_mm_##file##_##tile##_##accum##_e4m3_e4m3), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_##file##_##tile##_##accum##_e4m3_e5m2), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_##file##_##tile##_##accum##_e5m2_e4m3), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_##file##_##tile##_##accum##_e5m2_e5m2)}
#define MPK_MMA_TABLE(file, accum)                                     \
  {MPK_MMA_ROW(file, 128x128, accum), MPK_MMA_ROW(file, 64x64, accum), \
   MPK_MMA_ROW(file, 16x64, accum)}
