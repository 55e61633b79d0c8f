// One read of x. Plain: rows are encoded straight into q. With a transpose: tiles of 128 x 256 are
// encoded into a buffer that stays in the L1 cache, copied to q row by row, and transposed to q_t,
// where each of the 256 rows receives 128 bytes: two cache lines where M is a multiple of 128.
//
// A transposed x is read as the rows it is a view of, with q and q_t exchanged.
#include <algorithm>
#include <utility>

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

constexpr uint32_t kSignCode = 0x80;

MPK_INLINE uint32_t sign_code(float x) { return to_bits(x) >> 24 & kSignCode; }
MPK_INLINE uint32_t sign_code(BFloat16 x) { return x.bits >> 8 & kSignCode; }
MPK_INLINE uint32_t sign_code(Half x) { return x.bits >> 8 & kSignCode; }

// x[0:n] -> q[0:n]; returns the FP32 bits of max |x|. Magnitudes order like their bits, so an
// integer maximum lets Inf and NaN through and vectorises without -ffast-math. Signs go past the
// product, since the hardware chooses that of a NaN.
template <typename In, typename Format>
MPK_INLINE uint32_t encode_row(Format, const In* __restrict__ x, uint8_t* __restrict__ q, int64_t n,
                               float quant_scale) {
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

template <typename In, typename Format>
MPK_INLINE uint32_t encode_rows_body(Format format, const In* x, int64_t pitch, int64_t rows,
                                     int64_t columns, float quant_scale, const CodeRows& q) {
  uint32_t amax = 0;
  for (int64_t r = 0; r < rows; ++r) {
    amax = std::max(amax,
                    encode_row(format, x + r * pitch, q.data + r * q.pitch, columns, quant_scale));
  }
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Format>), uint32_t, encode_rows,
                 (Format format, const In* x, int64_t pitch, int64_t rows, int64_t columns,
                  float quant_scale, const CodeRows& q),
                 (format, x, pitch, rows, columns, quant_scale, q))

// At most kTileRows x kTileColumns of x.
struct Tile {
  int64_t rows, columns;
  int64_t rows_left;  // of x, from the tile's first on
  CodeRows q, q_t;
  bool stream;  // whole cache lines only
};

using Codes = uint8_t[kTileRows][kTileColumns];

template <typename In>
MPK_INLINE void prefetch_row(const In* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(In)) __builtin_prefetch(x + i, 0);
}

MPK_INLINE void store_row(const uint8_t* codes, int64_t row, const Tile& tile) {
  uint8_t* q = tile.q.data + row * tile.q.pitch;
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
      uint8_t* destination = tile.q_t.data + (c + i) * tile.q_t.pitch;
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

template <typename In, typename Format>
MPK_INLINE uint32_t encode_tile_body(Format format, const In* x, int64_t pitch, float quant_scale,
                                     const Tile& tile, Codes& codes) {
  // q_t's lines lie a row of q_t apart, beyond any hardware prefetcher: ask for them while
  // encoding.
  for (int64_t c = 0; c < tile.columns && !tile.stream; ++c) {
    __builtin_prefetch(tile.q_t.data + c * tile.q_t.pitch, 1);
  }
  uint32_t amax = 0;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (r + kReadAhead < tile.rows_left) prefetch_row(x + (r + kReadAhead) * pitch, tile.columns);
    amax = std::max(amax, encode_row(format, x + r * pitch, codes[r], tile.columns, quant_scale));
    if (tile.q.data) store_row(codes[r], r, tile);
  }
  store_transposed(codes, tile);
  if (tile.stream) stream_fence();
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Format>), uint32_t, encode_tile,
                 (Format format, const In* x, int64_t pitch, float quant_scale, const Tile& tile,
                  Codes& codes),
                 (format, x, pitch, quant_scale, tile, codes))

template <typename In, typename Format>
uint32_t run_rows(const Params& p) {
  const In* x = (const In*)p.x.data;
  const int64_t columns = p.x.columns, pitch = p.x.pitch;
  if (p.x.is_dense() && (p.x.rows <= 1 || p.q.pitch == columns)) {
    return parallel_max(p.x.rows * columns, kElementwiseGrain, [&](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      const CodeRows q{p.q.data + begin, n};
      return encode_rows(Format{}, x + begin, n, 1, n, p.quant_scale, q);
    });
  }
  const int64_t grain = std::max<int64_t>(1, kElementwiseGrain / std::max<int64_t>(1, columns));
  return parallel_max(p.x.rows, grain, [&](int64_t begin, int64_t end) {
    const CodeRows q{p.q.data + begin * p.q.pitch, p.q.pitch};
    return encode_rows(Format{}, x + begin * pitch, pitch, end - begin, columns, p.quant_scale, q);
  });
}

bool is_worth_streaming(const Params& p) {
  const uint64_t together =
      (uint64_t)p.q.data | (uint64_t)p.q_t.data | p.q.pitch | p.q_t.pitch | p.x.rows | p.x.columns;
  return p.x.rows * p.x.columns >= kStreamBytes && together % kCacheLine == 0;
}

// q may not be wanted here.
template <typename In, typename Format>
uint32_t run_tiles(const Params& p) {
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
                      {p.q.data ? p.q.data + row * p.q.pitch + column : nullptr, p.q.pitch},
                      {p.q_t.data + column * p.q_t.pitch + row, p.q_t.pitch},
                      stream};
      const In* source = (const In*)x.data + row * x.pitch + column;
      amax = std::max(amax, encode_tile(Format{}, source, x.pitch, p.quant_scale, tile, codes));
    }
    return amax;
  });
}

template <typename In>
uint32_t run(const Params& p) {
  if (p.q_t.data) return p.format == Fp8::kE4M3 ? run_tiles<In, E4M3>(p) : run_tiles<In, E5M2>(p);
  return p.format == Fp8::kE4M3 ? run_rows<In, E4M3>(p) : run_rows<In, E5M2>(p);
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
