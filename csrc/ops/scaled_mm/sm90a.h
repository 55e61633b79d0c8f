// scaled_mm on Hopper: the kernels' parameters, and the plan that fills them (sm90a_plan.cpp).
// Kernels: sm90a.cu.
//
// The kernels multiply rows of X by rows of Y. X is a and Y is b, or, where M is small, the other
// way round ("swapped"): wgmma has 64 rows at least, but any number of columns.
#pragma once

#include <cstdint>
#include <string>

#include "host/launch.h"
#include "host/tensor_map.h"
#include "ops/scaled_mm/scaled_mm_cuda.h"

#ifdef __CUDACC__
#define MPK_BOTH __host__ __device__
#else
#define MPK_BOTH
#endif

namespace mpkernels::scaled_mm::sm90a {

constexpr int kBlockK = 128;           // bytes: the span of TMA's widest swizzle
constexpr int kWarpgroup = 128;        // threads
constexpr int kPanelBytes = 64 * 128;  // of a result on its way out: 64 rows of 128 bytes
constexpr int kPanels = 2;             // a warpgroup's, in turn

// An instance of the kernel.
struct Tile {
  const char* name;
  int rows, columns;  // of X, of Y
  int consumers;      // warpgroups that multiply
  int stages;         // of the ring that TMA fills
  int blocks_per_sm;
  bool promote;  // to FP32 registers every kBlockK; else the tensor core adds up all of K
  bool swapped;

  MPK_BOTH constexpr int threads() const { return (consumers + 1) * kWarpgroup; }
  // Of 64 rows; a warpgroup's.
  MPK_BOTH constexpr int slices() const { return rows / (64 * consumers); }
  MPK_BOTH constexpr int stage_bytes() const { return (rows + columns) * kBlockK; }
  // That a warpgroup's part of a tile needs.
  MPK_BOTH constexpr int bias_values() const { return swapped ? rows / consumers : columns; }
  // Which operand a cluster of two tiles has in common: the larger one. Two tiles along Y share X.
  MPK_BOTH constexpr bool shares_x() const { return rows >= columns; }
  // Offsets in shared memory, after the stages.
  MPK_BOTH constexpr int panels_at() const { return stages * stage_bytes(); }
  MPK_BOTH constexpr int bias_at() const { return panels_at() + consumers * kPanels * kPanelBytes; }
  MPK_BOTH constexpr int barriers_at() const { return bias_at() + consumers * bias_values() * 4; }
  MPK_BOTH constexpr int shared_bytes() const { return barriers_at() + 2 * stages * 8; }
};

// Shared memory: 227 KB a block, and 228 KB an SM of which each block takes 1 KB more than it asked
// for. Registers: 65,536 an SM.
//   256 x 128   128 sums and 64 of the running product a thread; 4 * 48 + 32 KB
//   128 x 128   64 sums; 6 * 32 + 32 KB
//    64 x 128   one consumer a block and two blocks an SM, so that one block's promotion and
//               epilogue hide behind the other's products; 2 * (4 * 24 + 16) KB
//   128 x 256   128 sums; 4 * 48 + 32 KB. Promoted it would need 256 registers for sums
//   swapped     for reading b at the speed of memory: many stages; 8 * 24 + 32, 8 * 18 + 32 KB
constexpr Tile kTiles[] = {
    {"256x128", 256, 128, 2, 4, 1, true, false},
    {"128x128", 128, 128, 2, 6, 1, true, false},
    {"64x128", 64, 128, 1, 4, 2, true, false},
    {"128x256_fast", 128, 256, 2, 4, 1, false, false},
    {"128x64_swapped", 128, 64, 2, 8, 1, true, true},
    {"128x16_swapped", 128, 16, 2, 8, 1, true, true},
};
constexpr int kTileCount = sizeof(kTiles) / sizeof(Tile);

// How results leave. Tiles, stored or added, go by TMA; elements by ordinary stores, for an out
// that TMA cannot address, and to add to a 16-bit out, whose sums must be rounded once.
enum class Emit : int32_t { kTile, kAddTile, kElements };

struct alignas(64) Params {
  TensorMap x, y, out;           // out: or the partial sums, if K is split
  const float* dequant_scale_a;  // null for partial sums, which leave as they are
  const float* dequant_scale_b;
  const void* bias;  // null: none
  void* elements;    // out for Emit::kElements
  int64_t pitch;     // in elements
  int32_t m, n;
  int32_t x_tiles, y_tiles;  // in clusters
  int32_t k_blocks, k_blocks_per_split;
  uint32_t units;      // of work for a cluster: x_tiles * y_tiles * splits
  int32_t group;       // tiles along X that are walked together along Y
  int32_t split_rows;  // from the partial sums of one split to the next
  int32_t cluster;     // 1 or 2 CTAs
  HighPrecision out_type, bias_type;
  Emit emit;
  bool accumulate;
};

// out = (sum of the splits' partial sums, in order) * scales + bias [+ out]. K = 0 has no splits.
struct FinishParams {
  const float* partials;  // [splits][split_stride]: rows of `partial_pitch`
  int64_t partial_pitch, split_stride;
  const float *dequant_scale_a, *dequant_scale_b;
  const void* bias;
  void* out;
  int64_t pitch, m, n;
  int32_t splits;
  HighPrecision out_type, bias_type;
  bool accumulate;
  bool wide;  // out takes four elements at once
};
constexpr int kFinishThreads = 256;

struct Plan {
  int tile = -1;  // index in kTiles; -1: no product, K is 0
  int splits = 0, cluster = 1;
  LaunchShape shape{{0}}, finish_shape{{0}};  // no blocks: not launched
  int64_t workspace_bytes = 0;
  double cycles = 0;    // by the model, for the choice among plans
  MatrixMap x, y, out;  // to be encoded into params
  Params params{};
  FinishParams finish{};
};

// Chosen by the caller, where not -1: for tests and measurements.
struct Choice {
  int tile = -1, splits = -1, cluster = -1;
};

Plan plan(const Product& product, const DeviceFacts& facts, void* workspace, const Choice& = {});

const char* why_not(const Product& product, const DeviceFacts& facts);
std::string describe(const Product& product, const DeviceFacts& facts);
int64_t workspace_bytes(const Product& product, const DeviceFacts& facts);
void run(const Product& product, const DeviceFacts& facts, Workspace workspace, Stream stream);
void run(Plan& plan, const Product& product, Stream stream);

}  // namespace mpkernels::scaled_mm::sm90a

#undef MPK_BOTH
