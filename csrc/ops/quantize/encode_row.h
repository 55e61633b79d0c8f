// How a row is encoded: by arithmetic, or a BF16 one by table. row(x, q, n) does x[0:n] -> q[0:n]
// and returns the FP32 bits of max |x|.
#pragma once

#include <algorithm>

#include "ops/quantize/bf16_table.h"
#include "simd/bits.h"
#include "simd/convert.h"
#include "simd/fp8_encode.h"

namespace mpkernels::quantize {

constexpr uint32_t kSignCode = 0x80;

MPK_INLINE uint32_t sign_code(float x) { return to_bits(x) >> 24 & kSignCode; }
MPK_INLINE uint32_t sign_code(BFloat16 x) { return x.bits >> 8 & kSignCode; }

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

// F16C widens in one instruction what bits.h does in two dozen.
template <typename Format>
struct ByArithmetic<Half, Format> {
  float quant_scale;

  inline __attribute__((always_inline)) uint32_t operator()(const Half* x, uint8_t* q,
                                                            int64_t n) const {
    constexpr int kBlock = 256;
    alignas(64) float wide[kBlock];
    const ByArithmetic<float, Format> arithmetic{quant_scale};
    uint32_t amax = 0;
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t now = std::min<int64_t>(kBlock, n - i);
      widen(x + i, wide, now);
      amax = std::max(amax, arithmetic(wide, q + i, now));
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

}  // namespace mpkernels::quantize
