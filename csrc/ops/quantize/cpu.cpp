// One read of x. Plain: rows are encoded straight into q. With a transpose: tiles of 128 x 256 are
// encoded into a buffer that stays in the L1 cache, copied to q row by row, and transposed to q_t,
// where each of the 256 rows receives 128 bytes: two cache lines where M is a multiple of 128.
//
// A transposed x is read as the rows it is a view of, with q and q_t exchanged.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "ops/quantize/bf16_table.h"
#include "ops/quantize/quantize.h"
#include "simd/bits.h"
#include "simd/byte_transpose.h"
#include "simd/fp8_encode.h"
#include "simd/parallel.h"
#include "simd/stream.h"

namespace mpkernels::quantize {
namespace {

// Two cache lines for each row of q_t: with one, DRAM sees single lines a row of q_t apart.
// 1.75 -> 1.44 ms at 4096 x 4096; 256 gains 4 % there and loses where few tiles share the threads.
constexpr int kTileRows = 2 * kCacheLine;
constexpr int kTileColumns = 256;
// A tile reads only 512 to 1024 bytes of each row of x, too little for a hardware prefetcher to
// start: rows are asked for this many ahead. 3.0 -> 3.6 G elements/s at 4096 x 4096.
constexpr int kReadAhead = 16;
// From this size of q on, q and q_t bypass the caches (simd/stream.h): 3.2 -> 4.5 G elements/s at
// 4096 x 4096. At 4 MB it is no faster, and the GEMM that reads them next finds them in the cache.
constexpr int64_t kStreamBytes = 8 << 20;

// Elements that are streamed at once without a transpose, and how far ahead x is asked for.
constexpr int kChunk = 1024;
constexpr int kChunkAhead = 2 * kChunk;

constexpr uint32_t kSignCode = 0x80;

MPK_INLINE uint32_t sign_code(float x) { return to_bits(x) >> 24 & kSignCode; }
MPK_INLINE uint32_t sign_code(BFloat16 x) { return x.bits >> 8 & kSignCode; }
MPK_INLINE uint32_t sign_code(Half x) { return x.bits >> 8 & kSignCode; }

template <typename In>
MPK_INLINE void prefetch_row(const In* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(In)) __builtin_prefetch(x + i, 0);
}

// How a row is encoded: row(x, q, n) does x[0:n] -> q[0:n] and returns the FP32 bits of max |x|.

// Magnitudes order like their bits, so an integer maximum lets Inf and NaN through and vectorises
// without -ffast-math. Signs go past the product, since the hardware chooses that of a NaN.
template <typename In, typename Format>
struct ByArithmetic {
  float quant_scale;

  inline __attribute__((always_inline)) uint32_t operator()(const In* __restrict__ x,
                                                            uint8_t* __restrict__ q,
                                                            int64_t n) const {
    const float scale_magnitude = from_bits(to_bits(quant_scale) & kFp32MagnitudeMask);
    const uint32_t scale_sign = sign_code(quant_scale);
    uint32_t amax = 0;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t magnitude = to_bits(to_float(x[i])) & kFp32MagnitudeMask;
      amax = magnitude > amax ? magnitude : amax;
      const uint32_t product = to_bits(from_bits(magnitude) * scale_magnitude);
      q[i] = (uint8_t)(encode_fp8_magnitude<Format>(product) | (sign_code(x[i]) ^ scale_sign));
    }
    return amax;
  }
};

template <typename In, typename Row>
MPK_INLINE uint32_t encode_row_body(const Row& row, const In* x, uint8_t* q, int64_t n) {
  return row(x, q, n);
}
MPK_MULTIVERSION((template <typename In, typename Row>), uint32_t, encode_row,
                 (const Row& row, const In* x, uint8_t* q, int64_t n), (row, x, q, n))

#if defined(__x86_64__)
template <typename Format>
struct ByTable {
  const Bf16Table<Format>& table;
  float quant_scale;

  uint32_t operator()(const BFloat16* x, uint8_t* q, int64_t n) const {
    const ByArithmetic<BFloat16, Format> arithmetic{quant_scale};
    const int64_t blocks = n / 64 * 64;
    const auto other = [&](int64_t i) { encode_row(arithmetic, x + i, q + i, 64); };
    const uint32_t amax =
        encode_bf16_blocks(table, (uint8_t)sign_code(quant_scale), x, q, blocks, other);
    if (blocks == n) return amax;
    return std::max(amax, encode_row(arithmetic, x + blocks, q + blocks, n - blocks));
  }
};
#endif

// q bypasses the caches: a chunk is encoded into the L1 cache and copied from there.
template <typename In, typename Row>
MPK_INLINE uint32_t stream_row(const Row& row, const In* x, uint8_t* q, int64_t n) {
  alignas(64) uint8_t codes[kChunk];
  uint32_t amax = 0;
  for (int64_t i = 0; i < n; i += kChunk) {
    const int64_t now = std::min<int64_t>(kChunk, n - i);
    if (i + kChunkAhead < n)
      prefetch_row(x + i + kChunkAhead, std::min<int64_t>(kChunk, n - i - kChunkAhead));
    amax = std::max(amax, row(x + i, codes, now));
    stream_bytes(q + i, codes, now);
  }
  return amax;
}

template <typename In, typename Row>
MPK_INLINE uint32_t encode_rows_body(const Row& row, const In* x, int64_t pitch, int64_t rows,
                                     int64_t columns, uint8_t* q, bool stream) {
  uint32_t amax = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const In* from = x + r * pitch;
    uint8_t* to = q + r * columns;
    amax = std::max(amax, stream ? stream_row(row, from, to, columns) : row(from, to, columns));
  }
  if (stream) stream_fence();
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Row>), uint32_t, encode_rows,
                 (const Row& row, const In* x, int64_t pitch, int64_t rows, int64_t columns,
                  uint8_t* q, bool stream),
                 (row, x, pitch, rows, columns, q, stream))

// At most kTileRows x kTileColumns of x. q (null: not wanted) has `q_pitch` bytes a row, q_t
// `q_t_pitch`.
struct Tile {
  int64_t rows, columns;
  int64_t rows_left;  // of x, from the tile's first on
  uint8_t* q;
  int64_t q_pitch;
  uint8_t* q_t;
  int64_t q_t_pitch;
  bool stream;  // whole cache lines only
};

using Codes = uint8_t[kTileRows][kTileColumns];

MPK_INLINE void store_row(const uint8_t* codes, int64_t row, const Tile& tile) {
  uint8_t* q = tile.q + row * tile.q_pitch;
  if (!tile.stream) {
    memcpy(q, codes, tile.columns);
    return;
  }
  for (int64_t c = 0; c < tile.columns; c += kCacheLine) stream_bytes(q + c, codes + c, kCacheLine);
}

// codes -> tile.q_t.
MPK_INLINE void store_transposed(const Codes& codes, const Tile& tile) {
  for (int64_t c = 0; c < tile.columns; c += 16) {
    alignas(64) uint8_t columns[16][kTileRows];
    for (int64_t r = 0; r < kTileRows; r += 16) {
      transpose_16x16(&codes[r][c], kTileColumns, &columns[0][r], kTileRows);
    }
    const int64_t wanted = std::min<int64_t>(16, tile.columns - c);
    for (int64_t i = 0; i < wanted; ++i) {
      uint8_t* destination = tile.q_t + (c + i) * tile.q_t_pitch;
      if (tile.stream) {
        for (int64_t r = 0; r < tile.rows; r += kCacheLine)
          stream_bytes(destination + r, columns[i] + r, kCacheLine);
      } else if (tile.rows == kTileRows) {  // a constant size becomes one store
        memcpy(destination, columns[i], kTileRows);
      } else {
        memcpy(destination, columns[i], tile.rows);
      }
    }
  }
}

template <typename In, typename Row>
MPK_INLINE uint32_t encode_tile_body(const Row& row, const In* x, int64_t pitch, const Tile& tile,
                                     Codes& codes) {
  // q_t's lines lie a row of q_t apart, beyond any hardware prefetcher: ask for them while
  // encoding.
  for (int64_t c = 0; c < tile.columns && !tile.stream; ++c) {
    __builtin_prefetch(tile.q_t + c * tile.q_t_pitch, 1);
  }
  uint32_t amax = 0;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (r + kReadAhead < tile.rows_left) prefetch_row(x + (r + kReadAhead) * pitch, tile.columns);
    amax = std::max(amax, row(x + r * pitch, codes[r], tile.columns));
    if (tile.q) store_row(codes[r], r, tile);
  }
  store_transposed(codes, tile);
  if (tile.stream) stream_fence();
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Row>), uint32_t, encode_tile,
                 (const Row& row, const In* x, int64_t pitch, const Tile& tile, Codes& codes),
                 (row, x, pitch, tile, codes))

bool is_worth_streaming(const Params& p) {
  const uint64_t together = (uint64_t)p.q | (uint64_t)p.q_t | p.x.rows | p.x.columns;
  return p.x.rows * p.x.columns >= kStreamBytes && together % kCacheLine == 0;
}

template <typename In, typename Row>
uint32_t run_rows(const Params& p, const Row& row) {
  const In* x = (const In*)p.x.data;
  const int64_t columns = p.x.columns, pitch = p.x.pitch;
  const bool stream = is_worth_streaming(p);
  if (p.x.is_dense()) {
    return parallel_max(p.x.rows * columns, kElementwiseGrain, [&](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      return encode_rows(row, x + begin, n, 1, n, p.q + begin, stream);
    });
  }
  const int64_t grain = std::max<int64_t>(1, kElementwiseGrain / std::max<int64_t>(1, columns));
  return parallel_max(p.x.rows, grain, [&](int64_t begin, int64_t end) {
    return encode_rows(row, x + begin * pitch, pitch, end - begin, columns, p.q + begin * columns,
                       stream);
  });
}

// p.q may be null here.
template <typename In, typename Row>
uint32_t run_tiles(const Params& p, const Row& encode) {
  const Rows& x = p.x;
  const int64_t tiles_across = (x.columns + kTileColumns - 1) / kTileColumns;
  const int64_t tiles_down = (x.rows + kTileRows - 1) / kTileRows;
  const int64_t grain = kElementwiseGrain / (kTileRows * kTileColumns);
  // Tiles go down the columns first: 256 rows of q_t are then written from end to end, and their
  // pages stay in the TLB.
  const bool stream = is_worth_streaming(p);
  return parallel_max(tiles_across * tiles_down, grain, [&](int64_t begin, int64_t end) {
    alignas(64) Codes codes = {};  // ragged tiles are transposed whole
    uint32_t amax = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % tiles_down * kTileRows, column = i / tiles_down * kTileColumns;
      const Tile tile{std::min<int64_t>(kTileRows, x.rows - row),
                      std::min<int64_t>(kTileColumns, x.columns - column),
                      x.rows - row,
                      p.q ? p.q + row * x.columns + column : nullptr,
                      x.columns,
                      p.q_t + column * x.rows + row,
                      x.rows,
                      stream};
      const In* source = (const In*)x.data + row * x.pitch + column;
      amax = std::max(amax, encode_tile(encode, source, x.pitch, tile, codes));
    }
    return amax;
  });
}

template <typename In, typename Row>
uint32_t run_with(const Params& p, const Row& row) {
  return p.q_t ? run_tiles<In>(p, row) : run_rows<In>(p, row);
}

template <typename In, typename Format>
uint32_t run_format(const Params& p) {
#if defined(__x86_64__)
  if constexpr (std::is_same_v<In, BFloat16>) {
    if (capability() >= kAvx512Bf16) {
      const Bf16Table<Format> table(p.quant_scale);
      if (table.is_complete) return run_with<In>(p, ByTable<Format>{table, p.quant_scale});
    }
  }
#endif
  return run_with<In>(p, ByArithmetic<In, Format>{p.quant_scale});
}

template <typename In>
uint32_t run(const Params& p) {
  return p.format == Fp8::kE4M3 ? run_format<In, E4M3>(p) : run_format<In, E5M2>(p);
}

}  // namespace

float quantize_cpu(const Params& params) {
  Params p = params;
  if (p.x.rows * p.x.columns == 0) return 0.0f;
  if (p.x.transposed) std::swap(p.q, p.q_t);
  switch (p.input) {
    case HighPrecision::kFloat32:
      return from_bits(run<float>(p));
    case HighPrecision::kBFloat16:
      return from_bits(run<BFloat16>(p));
    default:
      return from_bits(run<Half>(p));
  }
}

}  // namespace mpkernels::quantize
