// The FP8 product by mma.sync, for sm80.cu, sm89.cu and sm120a.cu, which differ in the instruction.
//
// A block makes one tile of out. Its K runs in steps of 128 bytes through a ring of stages in
// shared memory, filled by cp.async: rows of 128 bytes, 16-byte chunk c of row r at c ^ (r % 8), so
// that the 8 rows of a matrix that ldmatrix reads, and the 8 chunks of a row that cp.async writes,
// lie in different banks. One barrier a step: it says that the next stage has landed and that
// everyone has read the last one, which is then refilled. Fragments are double buffered in
// registers: those of the next 32 bytes of K are on their way while these are multiplied, also from
// one step to the next. Promotion: the instructions of a step sum from zero, and the step's sums
// are added to the accumulators in FP32.
//
// Ragged edges cost nothing in the loop. Rows past M or N are replaced by the last one; their sums
// are not stored. What K has beyond a multiple of 128 is the first step: cp.async writes the zeros
// after it by itself, at the price of two instructions a copy that the loop is thus spared.
//
// Structure and raster as in CUTLASS 2.x (mma_multistage.h, threadblock_swizzle.h), which vLLM runs
// on sm_89 with these tiles.
#pragma once

#include "device/ptx/async_copy.cuh"
#include "device/ptx/ldmatrix.cuh"
#include "ops/scaled_mm/mma_epilogue.cuh"

namespace mpkernels::scaled_mm {

// kMmaTiles[kIndex] as types.
template <int kIndex>
struct TileShape {
  static constexpr MmaTile kTile = kMmaTiles[kIndex];
  static constexpr int kM = kTile.m, kN = kTile.n, kThreads = kTile.threads();
  static constexpr int kWarpsN = kTile.warps_n, kStages = kTile.stages;
  static constexpr int kStageBytes = kTile.stage_bytes();
  static constexpr int kMmaM = kM / kTile.warps_m / 16, kMmaN = kN / kWarpsN / 8;  // a warp
  static_assert(kMmaN % 2 == 0, "ldmatrix.x4 brings two tiles of b");
};

constexpr int kChunks = kMmaDepth / 16, kMmaSteps = kMmaDepth / 32;

// Brings rows of one operand, its share of a stage.
template <int kRows, int kThreads>
class RowLoader {
 public:
  static constexpr int kCopies = kRows * kChunks / kThreads;
  static_assert(kRows * kChunks % kThreads == 0);

  __device__ __forceinline__ RowLoader(const uint8_t* data, int64_t pitch, int64_t first,
                                       int64_t rows, uint32_t smem) {
    const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    // kThreads / kChunks is a multiple of 8: the place in the swizzle is that of all its rows.
    smem_ = smem + row * kMmaDepth + (chunk ^ row % 8) * 16;
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      source_[i] =
          data + min(first + row + i * (kThreads / kChunks), rows - 1) * pitch + chunk * 16;
  }

  // The next 128 bytes of K, to byte `stage` of the ring.
  __device__ __forceinline__ void load(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      ptx::copy_async(smem_ + stage + i * kStride, source_[i]);
      source_[i] += kMmaDepth;
    }
  }

  // The bytes of K from `begin` on, of which `valid` of this thread's 16 exist, to the first stage.
  __device__ __forceinline__ void load_end(int64_t begin, int valid) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      ptx::copy_async(smem_ + i * kStride, source_[i] + begin, valid);
  }

 private:
  static constexpr int kStride = kThreads / kChunks * kMmaDepth;
  uint32_t smem_;
  const uint8_t* source_[kCopies];
};

// What the lanes of a warp read of a stage for 32 bytes of K.
template <class Tile>
struct Fragments {
  uint32_t a[Tile::kMmaM][4];
  uint32_t b[Tile::kMmaN / 2][4];  // two 8-column tiles: registers 0, 1 and 2, 3

  // `row_a`, `row_b`: where this lane's rows begin in the stage, with the swizzle of its first
  // chunk.
  __device__ __forceinline__ void load(uint32_t row_a, uint32_t row_b, int step) {
#pragma unroll
    for (int i = 0; i < Tile::kMmaM; ++i)
      ptx::load_matrices(a[i], (row_a ^ step * 32) + i * 16 * kMmaDepth);
#pragma unroll
    for (int j = 0; j < Tile::kMmaN / 2; ++j)
      ptx::load_matrices(b[j], (row_b ^ step * 32) + j * 16 * kMmaDepth);
  }
};

// For instructions that take fragments as ldmatrix brings them.
struct WholeFragments {
  static constexpr float kFactor = 1;  // what the sums are still to be multiplied by
  struct A {
    uint32_t v[4];
  };
  struct B {
    uint32_t v[2];
  };
  static __device__ __forceinline__ A prepare_a(const uint32_t (&v)[4]) {
    return {v[0], v[1], v[2], v[3]};
  }
  static __device__ __forceinline__ B prepare_b(uint32_t v0, uint32_t v1) { return {v0, v1}; }
};

struct TileOrigin {
  int64_t m, n;
};

// Blocks walk down group_m rows of tiles before they go to the next column.
template <class Tile>
__device__ __forceinline__ TileOrigin tile_origin(const MmaParams& p) {
  const uint32_t per_group = p.group_m * p.tiles_n, group = blockIdx.x / per_group;
  const uint32_t first = group * p.group_m, rows = min(p.group_m, p.tiles_m - first);
  const uint32_t in_group = blockIdx.x - group * per_group;
  return {(int64_t)(first + in_group % rows) * Tile::kM, (int64_t)(in_group / rows) * Tile::kN};
}

// All K of a tile. Mma: the instruction, see sm89.cu.
template <class Tile, class Mma, bool kPromote>
__device__ __forceinline__ void multiply(const MmaParams& p, const TileOrigin& origin,
                                         uint32_t smem,
                                         float (&sums)[Tile::kMmaM][Tile::kMmaN][4]) {
  constexpr uint32_t kStageBytes = Tile::kStageBytes;
  constexpr uint32_t kRing = Tile::kStages * kStageBytes;
  constexpr int kAhead = Tile::kStages - 1;
  const int steps = p.whole_steps + (p.last_bytes != 0);
  if (steps == 0) return;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  RowLoader<Tile::kM, Tile::kThreads> loader_a(p.a, p.pitch_a, origin.m, p.m, smem);
  RowLoader<Tile::kN, Tile::kThreads> loader_b(p.b, p.pitch_b, origin.n, p.n,
                                               smem + Tile::kM * kMmaDepth);
  uint32_t filling = 0;
  auto fill = [&](bool exists) {
    if (exists) {
      loader_a.load(filling);
      loader_b.load(filling);
      filling = filling + kStageBytes == kRing ? 0 : filling + kStageBytes;
    }
    ptx::copy_async_commit();
  };

  // Matrices of a: rows 0-7 and 8-15 of the first chunk, then of the second; of b: both chunks of
  // columns 0-7, then of 8-15.
  const int row_a = warp / Tile::kWarpsN * Tile::kMmaM * 16 + lane % 16;
  const int row_b = warp % Tile::kWarpsN * Tile::kMmaN * 8 + lane % 8 + lane / 16 * 8;
  uint32_t read_a = smem + row_a * kMmaDepth + ((lane / 16) ^ lane % 8) * 16;
  uint32_t read_b = smem + (Tile::kM + row_b) * kMmaDepth + ((lane / 8 % 2) ^ lane % 8) * 16;

  if (p.last_bytes != 0) {
    const int valid = min(max(p.last_bytes - (int)threadIdx.x % kChunks * 16, 0), 16);
    const int64_t begin = (int64_t)p.whole_steps * kMmaDepth;
    loader_a.load_end(begin, valid);
    loader_b.load_end(begin, valid);
    filling = kStageBytes;
    ptx::copy_async_commit();
  } else {
    fill(true);
  }
#pragma unroll
  for (int i = 1; i < kAhead; ++i) fill(i < steps);
  ptx::copy_async_wait<kAhead - 1>();
  __syncthreads();
  Fragments<Tile> fragments[2];
  fragments[0].load(read_a, read_b, 0);
  uint32_t reading = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    float partial[Tile::kMmaM][Tile::kMmaN][4];
#pragma unroll
    for (int k = 0; k < kMmaSteps; ++k) {
      if (k + 1 < kMmaSteps) {
        fragments[(k + 1) % 2].load(read_a + reading, read_b + reading, k + 1);
      } else {
        ptx::copy_async_wait<kAhead - 1>();
        __syncthreads();
        reading = reading + kStageBytes == kRing ? 0 : reading + kStageBytes;
        if (step + 1 < steps) fragments[0].load(read_a + reading, read_b + reading, 0);
      }
      if (k == 0) fill(step + kAhead < steps);
      const Fragments<Tile>& now = fragments[k % 2];
      typename Mma::A a[Tile::kMmaM];
      typename Mma::B b[Tile::kMmaN];
#pragma unroll
      for (int i = 0; i < Tile::kMmaM; ++i) a[i] = Mma::prepare_a(now.a[i]);
#pragma unroll
      for (int j = 0; j < Tile::kMmaN; ++j)
        b[j] = Mma::prepare_b(now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]);
#pragma unroll
      for (int i = 0; i < Tile::kMmaM; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kMmaN; ++j) {
          if constexpr (!kPromote) {
            Mma::multiply(sums[i][j], a[i], b[j], sums[i][j]);
          } else {
            const float zero[4] = {};
            if (k == 0)
              Mma::multiply(partial[i][j], a[i], b[j], zero);
            else
              Mma::multiply(partial[i][j], a[i], b[j], partial[i][j]);
          }
        }
    }
    if constexpr (kPromote) {
#pragma unroll
      for (int i = 0; i < Tile::kMmaM; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kMmaN; ++j)
#pragma unroll
          for (int r = 0; r < 4; ++r) sums[i][j][r] += partial[i][j][r];
    }
  }
}

template <int kTile, class Mma, bool kPromote>
__device__ __forceinline__ void scaled_mm(const MmaParams& p) {
  using Tile = TileShape<kTile>;
  extern __shared__ __align__(1024) uint8_t smem[];
  const TileOrigin origin = tile_origin<Tile>(p);
  float sums[Tile::kMmaM][Tile::kMmaN][4] = {};
  multiply<Tile, Mma, kPromote>(p, origin, ptx::smem_addr(smem), sums);
  finish<Tile>(p, (float*)smem, sums, Mma::kFactor, origin.m, origin.n);
}

}  // namespace mpkernels::scaled_mm
