// One read of x, and from it q, q_t and amax. A block encodes a tile of 128 x 128 into shared
// memory and stores it from there, row by row and column by column, 16 bytes an access.
//
// Shared memory holds words of four codes of one row: 32 words a row, word w of row r at
// r * 32 + (w ^ swizzle(r)). Rows 16 apart differ in the upper three bits of the bank, so that
// * rows are written and read without conflict, in units of 8 and 16 bytes (the low two bits of the
//   place stay);
// * a warp that reads word w of 8 groups of 16 rows, for 4 neighbouring w, meets 32 banks.
#include "device/fp8.cuh"
#include "device/ptx/load_store.cuh"
#include "device/reduce.cuh"
#include "ops/compute_scale/scale_rule.cuh"
#include "ops/quantize/quantize_cuda.h"

namespace mpkernels::quantize {
namespace {

using device::SignedScale;
using device::Words;

constexpr int kWarps = kThreads / device::kWarp;
constexpr int kWordsPerRow = kTile / 4;
constexpr int kInFlight = 8;  // 16-byte loads a thread issues before it needs the first

struct Shared {
  alignas(16) uint32_t codes[kTile * kWordsPerRow];
  uint32_t warp_max[kWarps];
  float quant_scale;
};

__device__ __forceinline__ int place(int row, int word) {
  return row * kWordsPerRow + (word ^ (row >> 4 & 7) << 2);
}

// Where a block is.
struct Tile {
  int64_t row, column;
  int rows, columns;  // of x inside it, at most 128
  int last_columns;   // of its last row
  bool whole;

  __device__ __forceinline__ Tile(const QuantizeParams& p, uint32_t index) {
    const uint32_t down = index / p.tiles_across;
    row = (int64_t)down * kTile;
    column = (int64_t)(index - down * p.tiles_across) * kTile;
    rows = (int)min((int64_t)kTile, p.rows - row);
    columns = (int)min((int64_t)kTile, p.columns - column);
    last_columns =
        row + rows == p.rows ? (int)min((int64_t)columns, p.last_columns - column) : columns;
    whole = rows == kTile && last_columns == kTile;
  }

  __device__ __forceinline__ int columns_of(int r) const {
    return r >= rows ? 0 : r == rows - 1 ? last_columns : columns;
  }
};

// How the threads share the loads of a tile: 16 bytes each, whole rows in neighbouring lanes.
template <HighPrecision kInput>
struct Loads {
  using Element = typename Words<kInput>::Element;
  static constexpr int kElements = 16 / sizeof(Element);
  static constexpr int kLanes = kTile / kElements;  // a row
  static constexpr int kStep = kThreads / kLanes;   // rows at a time
  static constexpr int kCount = kTile / kStep;      // loads a thread: 8 or 16
};

// Elements that do not fill an aligned access; 0 past the end of the row.
template <HighPrecision kInput>
__device__ uint4 load_elements(const void* address, int count) {
  using L = Loads<kInput>;
  using Element = typename L::Element;
  alignas(16) uint32_t words[4];
  constexpr int kPerWord = 4 / sizeof(Element);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    words[w] = 0;
#pragma unroll
    for (int k = 0; k < kPerWord; ++k) {
      const int i = w * kPerWord + k;
      if (i < count) words[w] |= (uint32_t)((const Element*)address)[i] << k * 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Where a thread's loads of a tile begin: row, column and address.
template <HighPrecision kInput>
struct Place {
  using L = Loads<kInput>;
  int row, column;
  const typename L::Element* address;
  int64_t step;  // elements from one load to the next

  __device__ __forceinline__ Place(const QuantizeParams& p, const Tile& tile) {
    row = threadIdx.x / L::kLanes, column = threadIdx.x % L::kLanes * L::kElements;
    address = (const typename L::Element*)p.x + (tile.row + row) * p.pitch + tile.column + column;
    step = L::kStep * p.pitch;
  }
};

template <HighPrecision kInput, Fp8 kFormat>
__device__ __forceinline__ void encode(const uint4& v, int row, int column,
                                       const SignedScale& scale_by, Shared& shared,
                                       uint32_t& most) {
  if constexpr (Loads<kInput>::kElements == 8) {
    const uint32_t low[2] = {v.x, v.y}, high[2] = {v.z, v.w};
    const uint2 codes = {device::encode4<kInput, kFormat>(low, scale_by, most),
                         device::encode4<kInput, kFormat>(high, scale_by, most)};
    *(uint2*)&shared.codes[place(row, column / 4)] = codes;
  } else {
    const uint32_t all[4] = {v.x, v.y, v.z, v.w};
    shared.codes[place(row, column / 4)] = device::encode4<kInput, kFormat>(all, scale_by, most);
  }
}

// A whole piece in accesses of 8 or 4 bytes. Its neighbours' go to the same sectors, which L1 has.
template <typename Access>
__device__ __forceinline__ uint4 load_narrow(const void* address) {
  constexpr int kWords = sizeof(Access) / 4;
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4 / kWords; ++i) *(Access*)&words[i * kWords] = ((const Access*)address)[i];
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Tiles that x does not fill, and rows that do not start at 16 bytes.
template <HighPrecision kInput, Fp8 kFormat>
__device__ __forceinline__ void encode_ragged(const QuantizeParams& p, const Tile& tile,
                                              const SignedScale& scale_by, Shared& shared,
                                              uint32_t& most) {
  using L = Loads<kInput>;
  Place<kInput> at(p, tile);
#pragma unroll 1
  for (int i = 0; i < L::kCount; ++i, at.row += L::kStep, at.address += at.step) {
    const int left = tile.columns_of(at.row) - at.column;
    uint4 v;
    if (left < L::kElements || p.access == 2)
      v = load_elements<kInput>(at.address, left);
    else if (p.access == 4)
      v = load_narrow<uint32_t>(at.address);
    else if (p.access == 8)
      v = load_narrow<uint2>(at.address);
    else
      v = ptx::load_once(at.address);
    encode<kInput, kFormat>(v, at.row, at.column, scale_by, shared, most);
  }
}

// Every block reduces the partial maxima, at most a few hundred words from L2: no third launch, no
// counter to keep at zero between calls. It does so before it loads x: ptxas calls a subroutine for
// the float64 division, and would put what is live across the call on a stack.
__device__ __forceinline__ float current_scale(const CurrentScale& current, Shared& shared) {
  uint32_t most = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < current.count; i += kThreads)
    most = max(most, current.partial_amaxes[i]);
  device::publish_warp_max(most, shared.warp_max);
  __syncthreads();
  if (threadIdx.x < device::kWarp) {
    const float amax = __uint_as_float(device::block_max<kWarps>(shared.warp_max));
    if (threadIdx.x == 0) {
      const auto scales = compute_scale::scales_of(amax, current.rule, 1.0f);
      shared.quant_scale = scales.quant;
      if (blockIdx.x == 0) {
        *current.amax = amax;
        *current.quant_scale = scales.quant;
        *current.dequant_scale = scales.dequant;
      }
    }
  }
  __syncthreads();
  return shared.quant_scale;
}

// Rows of the tile to q, in pieces of 16 bytes: there is room for the last one of a row, except
// where q is flat and ends in the middle of it.
__device__ __forceinline__ void store_rows(const QuantizeParams& p, const Tile& tile,
                                           const Shared& shared) {
  uint8_t* out = p.q.data + tile.row * p.q.pitch + tile.column;
#pragma unroll
  for (int i = 0; i < kTile * kTile / 16 / kThreads; ++i) {
    const int piece = i * kThreads + threadIdx.x, r = piece / 8, c = piece % 8 * 16;
    if (!tile.whole && c >= tile.columns_of(r)) continue;
    const uint32_t* codes = &shared.codes[place(r, c / 4)];
    uint8_t* address = out + r * p.q.pitch + c;
    if (tile.whole || !p.is_flat || c + 16 <= tile.columns_of(r)) {
      *(uint4*)address = *(const uint4*)codes;
    } else {
      for (int k = 0; k < tile.columns_of(r) - c; ++k) address[k] = ((const uint8_t*)codes)[k];
    }
  }
}

// Columns of the tile to q_t. Each thread turns 16 rows of 4 codes into 4 columns of 16.
__device__ __forceinline__ void store_columns(const QuantizeParams& p, const Tile& tile,
                                              const Shared& shared) {
  const int group = threadIdx.x % 8,
            word = threadIdx.x / 8;  // rows 16 group ..., columns 4 word ...
  uint32_t v[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[i][k] = shared.codes[place(group * 16 + i * 4 + k, word)];
    device::transpose_4x4(v[i]);
  }
  uint8_t* out = p.q_t.data + tile.column * p.q_t.pitch + tile.row;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int c = word * 4 + k;
    if (tile.whole || (c < tile.columns && group * 16 < tile.rows))
      *(uint4*)(out + c * p.q_t.pitch + group * 16) =
          make_uint4(v[0][k], v[1][k], v[2][k], v[3][k]);
  }
}

template <HighPrecision kInput, Fp8 kFormat, Outputs kOutputs>
__device__ __forceinline__ void quantize(const QuantizeParams& p) {
  using L = Loads<kInput>;
  __shared__ Shared shared;
  const bool is_current = p.current.partial_amaxes != nullptr;
  // After an amax pass over x from its begin, its end is what L2 still holds.
  const Tile tile(p, is_current ? p.tiles - 1 - blockIdx.x : blockIdx.x);
  const float quant_scale = is_current ? current_scale(p.current, shared) : *p.quant_scale;
  const bool fast = tile.whole && p.access == 16;
  const Place<kInput> at(p, tile);
  uint4 v[kInFlight];
  if (fast) {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) v[i] = ptx::load_once(at.address + i * at.step);
  }
  const SignedScale scale_by = device::signed_scale(quant_scale);
  uint32_t most = 0;
  if (fast) {
#pragma unroll
    for (int first = 0; first < L::kCount; first += kInFlight) {
#pragma unroll
      for (int i = 0; i < kInFlight && first > 0; ++i)
        v[i] = ptx::load_once(at.address + (first + i) * at.step);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        encode<kInput, kFormat>(v[i], at.row + (first + i) * L::kStep, at.column, scale_by, shared,
                                most);
    }
  } else {
    encode_ragged<kInput, kFormat>(p, tile, scale_by, shared, most);
  }
  if (p.amax) device::publish_warp_max(Words<kInput>::widest(most), shared.warp_max);
  __syncthreads();
  if (p.amax && threadIdx.x < device::kWarp) {
    most = device::block_max<kWarps>(shared.warp_max);
    if (threadIdx.x == 0) {
      if (gridDim.x == 1)
        *p.amax = most;
      else
        atomicMax(p.amax, most);
    }
  }
  if constexpr (kOutputs != Outputs::kQT) store_rows(p, tile, shared);
  if constexpr (kOutputs != Outputs::kQ) store_columns(p, tile, shared);
}

}  // namespace
}  // namespace mpkernels::quantize

#define MPK_QUANTIZE(input, kInput, format, kFormat, outputs, kOutputs)                      \
  extern "C" __global__ void __launch_bounds__(mpkernels::quantize::kThreads)                \
      mpk_quantize_##input##_##format##_##outputs(                                           \
          const __grid_constant__ mpkernels::quantize::QuantizeParams p) {                   \
    mpkernels::quantize::quantize<mpkernels::HighPrecision::kInput, mpkernels::Fp8::kFormat, \
                                  mpkernels::quantize::Outputs::kOutputs>(p);                \
  }
#define MPK_QUANTIZE_OUTPUTS(input, kInput, format, kFormat) \
  MPK_QUANTIZE(input, kInput, format, kFormat, q, kQ)        \
  MPK_QUANTIZE(input, kInput, format, kFormat, qt, kQT)      \
  MPK_QUANTIZE(input, kInput, format, kFormat, both, kBoth)
#define MPK_QUANTIZE_FORMATS(input, kInput)        \
  MPK_QUANTIZE_OUTPUTS(input, kInput, e4m3, kE4M3) \
  MPK_QUANTIZE_OUTPUTS(input, kInput, e5m2, kE5M2)
MPK_QUANTIZE_FORMATS(f32, kFloat32)
MPK_QUANTIZE_FORMATS(bf16, kBFloat16)
MPK_QUANTIZE_FORMATS(f16, kFloat16)

namespace mpkernels::quantize {

// By HighPrecision, Fp8 and Outputs.
#define MPK_ENTRIES(input, format)                         \
  {MPK_KERNEL_ENTRY(mpk_quantize_##input##_##format##_q),  \
   MPK_KERNEL_ENTRY(mpk_quantize_##input##_##format##_qt), \
   MPK_KERNEL_ENTRY(mpk_quantize_##input##_##format##_both)}
static const Kernel kKernels[3][2][3] = {{MPK_ENTRIES(f32, e4m3), MPK_ENTRIES(f32, e5m2)},
                                         {MPK_ENTRIES(bf16, e4m3), MPK_ENTRIES(bf16, e5m2)},
                                         {MPK_ENTRIES(f16, e4m3), MPK_ENTRIES(f16, e5m2)}};

void quantize_cuda(const QuantizePlan& plan, HighPrecision input, Fp8 format, Stream stream) {
  const uint32_t blocks = plan.shape.grid.x;
  if (plan.params.amax && blocks != 1) set_zero(plan.params.amax, sizeof(float), "amax", stream);
  if (blocks == 0) return;
  launch(kKernels[(int)input][(int)format][(int)plan.outputs], plan.shape, plan.params, stream);
}

}  // namespace mpkernels::quantize
