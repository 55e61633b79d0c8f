// The plan shared by the kernels that are made of mma.sync (sm80, sm89, sm120a): tiles, parameters,
// and the choice of a tile by a model of its time. Kernels: mma_kernel.cuh.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "ops/scaled_mm/scaled_mm_cuda.h"

namespace mpkernels::scaled_mm {

// Bytes of K a step: a row of a tile is the 128 bytes that lie across all banks, and 128 is how far
// tensor cores may sum before the sums are promoted to FP32.
constexpr int kMmaDepth = 128;

// The staged sums of the epilogue: rows 32 bytes longer than a multiple of all banks, so that the
// 4 rows x 32 bytes that half a warp stores at a time hit each bank once.
constexpr int kStagePadding = 32;

struct MmaTile {
  int m, n;              // of out
  int warps_m, warps_n;  // that share it
  int stages;            // of K in flight

  constexpr int threads() const { return 32 * warps_m * warps_n; }
  constexpr int stage_bytes() const { return (m + n) * kMmaDepth; }
  constexpr int shared_bytes() const {
    return std::max(stages * stage_bytes(), m * (4 * n + kStagePadding));
  }
};

// 96, 48 and 40 KB. Consumer parts have 100 KB of shared memory an SM, of which a block may have 99
// and each block costs one more: one block of the first a SM, two of the others.
constexpr MmaTile kMmaTiles[] = {{128, 128, 2, 4, 3}, {64, 64, 2, 2, 3}, {16, 64, 1, 4, 4}};
constexpr int kMmaTileCount = 3;
constexpr int kPairs = 4;  // of FP8 formats

constexpr int pair_of(Fp8 a, Fp8 b) { return 2 * (int)a + (int)b; }

struct MmaParams {
  const uint8_t *a, *b;
  int64_t pitch_a, pitch_b;
  const float *dequant_scale_a, *dequant_scale_b;
  const void* bias;
  void* out;
  int64_t out_pitch;
  int64_t m, n;
  int32_t whole_steps, last_bytes;  // K = 128 * whole_steps + last_bytes
  uint32_t tiles_m, tiles_n, group_m;
  HighPrecision bias_type, out_type;
  bool accumulate;
  bool aligned_rows;  // each row of out begins at a multiple of 16 bytes
};

// What an SM of an architecture does in a clock, for the model.
struct MmaRates {
  double multiply_adds;  // of its tensor cores
  double l2_bytes;       // its share of what L2 delivers
};

struct MmaPlan {
  int tile;  // of kMmaTiles
  bool promote;
  uint32_t tiles_m, tiles_n, group_m;
  LaunchShape shape;
  double cycles;  // of the model
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// From the start of a block to its first multiplication: a read from DRAM and one barrier or two.
constexpr double kFillCycles = 1500;

// Time of all tiles on the busiest SM. Blocks on one SM share its tensor cores and hide each
// other's beginnings and ends.
inline double mma_cycles(const MmaTile& tile, const Product& p, const DeviceFacts& facts,
                         const MmaRates& rates) {
  const int64_t tiles = ceil_div(p.m, tile.m) * ceil_div(p.n, tile.n);
  const int64_t blocks_per_sm = std::max<int64_t>(1, 100 * 1024 / (tile.shared_bytes() + 1024));
  const double multiply = (double)tile.m * tile.n * kMmaDepth / rates.multiply_adds;
  const double fetch = tile.stage_bytes() / rates.l2_bytes;
  const double steps = (double)ceil_div(p.k, kMmaDepth);
  const double store =
      (double)tile.m * tile.n * (p.out_type == HighPrecision::kFloat32 ? 4 : 2) / rates.l2_bytes;
  return ceil_div(tiles, facts.sm_count) * (steps * std::max(multiply, fetch) + store) +
         ceil_div(tiles, facts.sm_count * blocks_per_sm) * kFillCycles;
}

// Blocks run in the order of their index: those of a wave cover group_m rows of tiles by as many
// columns, and read the fewest bytes when that is nearest to a square.
inline uint32_t mma_group(const MmaTile& tile, uint32_t tiles_m, int sm_count) {
  uint32_t best = 1;
  double fewest = 0;
  for (uint32_t group = 1; group <= 16; group *= 2) {
    const double bytes = group * tile.m + (double)ceil_div(sm_count, group) * tile.n;
    if (group == 1 || (bytes < fewest && group <= tiles_m)) best = group, fewest = bytes;
  }
  return best;
}

inline MmaPlan plan_mma(const Product& p, const DeviceFacts& facts, const MmaRates& rates,
                        bool can_promote) {
  MmaPlan plan{};
  for (int i = 0; i < kMmaTileCount; ++i) {
    const double cycles = mma_cycles(kMmaTiles[i], p, facts, rates);
    if (i == 0 || cycles < plan.cycles) plan.tile = i, plan.cycles = cycles;
  }
  const MmaTile& tile = kMmaTiles[plan.tile];
  plan.promote = can_promote && !p.use_fast_accum;
  plan.tiles_m = (uint32_t)ceil_div(p.m, tile.m);
  plan.tiles_n = (uint32_t)ceil_div(p.n, tile.n);
  plan.group_m = mma_group(tile, plan.tiles_m, facts.sm_count);
  plan.shape = {
      {plan.tiles_m * plan.tiles_n}, {(uint32_t)tile.threads()}, (uint32_t)tile.shared_bytes()};
  return plan;
}

// A grid has at most 2^31 - 1 blocks along x.
inline const char* mma_why_not(const Product& p) {
  const MmaTile& largest = kMmaTiles[0];
  if (ceil_div(p.m, largest.m) * ceil_div(p.n, largest.n) < (1ll << 27)) return nullptr;
  return "out has more tiles than a grid has blocks";
}

inline MmaParams mma_params(const Product& p, const MmaPlan& plan) {
  const int64_t element = p.out_type == HighPrecision::kFloat32 ? 4 : 2;
  MmaParams params{};
  params.a = p.a, params.b = p.b;
  params.pitch_a = p.pitch_a, params.pitch_b = p.pitch_b;
  params.dequant_scale_a = p.dequant_scale_a, params.dequant_scale_b = p.dequant_scale_b;
  params.bias = p.bias, params.bias_type = p.bias_type;
  params.out = p.out, params.out_pitch = p.out_pitch, params.out_type = p.out_type;
  params.m = p.m, params.n = p.n;
  params.whole_steps = (int32_t)(p.k / kMmaDepth), params.last_bytes = (int32_t)(p.k % kMmaDepth);
  params.tiles_m = plan.tiles_m, params.tiles_n = plan.tiles_n, params.group_m = plan.group_m;
  params.accumulate = p.accumulate;
  params.aligned_rows = (uintptr_t)p.out % 16 == 0 && (p.m == 1 || p.out_pitch * element % 16 == 0);
  return params;
}

inline void launch_mma(const Kernel (&kernels)[kMmaTileCount][kPairs], const Product& p,
                       const MmaPlan& plan, Stream stream) {
  launch(kernels[plan.tile][pair_of(p.format_a, p.format_b)], plan.shape, mma_params(p, plan),
         stream);
}

inline std::string describe_mma(const char* file, const MmaPlan& plan, const DeviceFacts& facts) {
  const MmaTile& tile = kMmaTiles[plan.tile];
  const auto text = [](int64_t n) { return std::to_string(n); };
  return std::string(file) + ", tiles of " + text(tile.m) + " x " + text(tile.n) + " x " +
         text(kMmaDepth) + ", " + text(tile.stages) + " stages, " +
         (plan.promote ? "sums promoted to FP32 every 128 of K, " : "") + text(plan.tiles_m) +
         " x " + text(plan.tiles_n) + " tiles on " + text(facts.sm_count) +
         " SMs; model: " + text((int64_t)plan.cycles) + " cycles";
}

}  // namespace mpkernels::scaled_mm
