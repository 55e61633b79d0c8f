// One read of x. Plain: rows are encoded straight into q. With a transpose: tiles of 128 x 256 are
// encoded into a buffer that stays in the L1 cache, copied to q row by row, and transposed to q_t,
// where each of the 256 rows receives 128 bytes: two cache lines where M is a multiple of 128.
//
// A transposed x is read as the rows it is a view of, with q and q_t exchanged.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "ops/quantize/encode_row.h"
#include "ops/quantize/quantize.h"
#include "simd/bits.h"
#include "simd/byte_transpose.h"
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

// Elements that are streamed at once without a transpose, and how far ahead x is asked for: 1.5
// times as fast at 4096 x 4096 in BF16, as the lines of q are not read first.
constexpr int kChunk = 1024;
constexpr int kChunkAhead = 2 * kChunk;

template <typename In>
MPK_INLINE void prefetch_row(const In* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(In)) __builtin_prefetch(x + i, 0);
}

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
                                     int64_t columns, const CodeRows& q, bool stream) {
  uint32_t amax = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const In* from = x + r * pitch;
    uint8_t* to = q.data + r * q.pitch;
    amax = std::max(amax, stream ? stream_row(row, from, to, columns) : row(from, to, columns));
  }
  if (stream) stream_fence();
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Row>), uint32_t, encode_rows,
                 (const Row& row, const In* x, int64_t pitch, int64_t rows, int64_t columns,
                  const CodeRows& q, bool stream),
                 (row, x, pitch, rows, columns, q, stream))

// At most kTileRows x kTileColumns of x.
struct Tile {
  int64_t rows, columns;
  int64_t rows_left;  // of x, from the tile's first on
  CodeRows q, q_t;
  bool stream;  // whole cache lines only
};

using Codes = uint8_t[kTileRows][kTileColumns];

MPK_INLINE void store_row(const uint8_t* codes, int64_t row, const Tile& tile) {
  uint8_t* q = tile.q.data + row * tile.q.pitch;
  if (tile.stream) {
    stream_bytes(q, codes, tile.columns);
  } else if (tile.columns == kTileColumns) {  // a constant size becomes moves
    memcpy(q, codes, kTileColumns);
  } else {
    memcpy(q, codes, tile.columns);
  }
}

#if defined(__x86_64__)
// Whole cache lines of q_t, those of a row one after the other; returns how many columns those
// were.
MPK_AVX512 inline int64_t store_transposed_avx512(const Codes& codes, const Tile& tile) {
  int64_t c = 0;
  for (; c + 16 <= tile.columns; c += 16) {
    __m512i lines[kTileRows / kCacheLine][16];
    for (int64_t r = 0; r < kTileRows / kCacheLine; ++r) {
      transpose_64x16(&codes[r * kCacheLine][c], kTileColumns, lines[r]);
    }
    for (int i = 0; i < 16; ++i) {
      uint8_t* destination = tile.q_t.data + (c + i) * tile.q_t.pitch;
      for (int64_t r = 0; r < kTileRows / kCacheLine; ++r, destination += kCacheLine) {
        if (tile.stream) {
          _mm512_stream_si512((__m512i*)destination, lines[r][i]);
        } else {
          _mm512_storeu_si512(destination, lines[r][i]);
        }
      }
    }
  }
  return c;
}
#endif

// codes -> tile.q_t.
MPK_INLINE void store_transposed(const Codes& codes, const Tile& tile) {
  int64_t done = 0;
#if defined(__x86_64__)
  if (tile.rows == kTileRows && capability() >= kAvx512) {
    done = store_transposed_avx512(codes, tile);
  }
#endif
  for (int64_t c = done; c < tile.columns; c += 16) {
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

template <typename In, typename Row>
MPK_INLINE uint32_t encode_tile_body(const Row& row, const In* x, int64_t pitch, const Tile& tile,
                                     Codes& codes) {
  // q_t's lines lie a row of q_t apart, beyond any hardware prefetcher: ask for them while
  // encoding.
  for (int64_t c = 0; c < tile.columns && !tile.stream; ++c) {
    __builtin_prefetch(tile.q_t.data + c * tile.q_t.pitch, 1);
  }
  uint32_t amax = 0;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (r + kReadAhead < tile.rows_left) prefetch_row(x + (r + kReadAhead) * pitch, tile.columns);
    amax = std::max(amax, row(x + r * pitch, codes[r], tile.columns));
    if (tile.q.data) store_row(codes[r], r, tile);
  }
  store_transposed(codes, tile);
  if (tile.stream) stream_fence();
  return amax;
}
MPK_MULTIVERSION((template <typename In, typename Row>), uint32_t, encode_tile,
                 (const Row& row, const In* x, int64_t pitch, const Tile& tile, Codes& codes),
                 (row, x, pitch, tile, codes))

bool is_worth_streaming(const Params& p) {
  const uint64_t together =
      (uint64_t)p.q.data | (uint64_t)p.q_t.data | p.q.pitch | p.q_t.pitch | p.x.rows | p.x.columns;
  return p.x.rows * p.x.columns >= kStreamBytes && together % kCacheLine == 0;
}

template <typename In, typename Row>
uint32_t run_rows(const Params& p, const Row& row) {
  const In* x = (const In*)p.x.data;
  const int64_t columns = p.x.columns, pitch = p.x.pitch;
  const bool stream = is_worth_streaming(p);
  if (p.x.is_dense() && (p.x.rows <= 1 || p.q.pitch == columns)) {
    return parallel_max(p.x.rows * columns, kElementwiseGrain, [&](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      return encode_rows(row, x + begin, n, 1, n, CodeRows{p.q.data + begin, n}, stream);
    });
  }
  const int64_t grain = std::max<int64_t>(1, kElementwiseGrain / std::max<int64_t>(1, columns));
  return parallel_max(p.x.rows, grain, [&](int64_t begin, int64_t end) {
    const CodeRows q{p.q.data + begin * p.q.pitch, p.q.pitch};
    return encode_rows(row, x + begin * pitch, pitch, end - begin, columns, q, stream);
  });
}

// q may not be wanted here.
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
                      {p.q.data ? p.q.data + row * p.q.pitch + column : nullptr, p.q.pitch},
                      {p.q_t.data + column * p.q_t.pitch + row, p.q_t.pitch},
                      stream};
      const In* source = (const In*)x.data + row * x.pitch + column;
      amax = std::max(amax, encode_tile(encode, source, x.pitch, tile, codes));
    }
    return amax;
  });
}

template <typename In, typename Row>
uint32_t run_with(const Params& p, const Row& row) {
  return p.q_t.data ? run_tiles<In>(p, row) : run_rows<In>(p, row);
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
