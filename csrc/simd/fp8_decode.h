// FP8 -> BF16 and FP32. Both are exact: BF16 has E4M3's and E5M2's mantissa bits and more than
// their exponent range, so no code is rounded and no subnormal stays subnormal.
//
// Sources: OCP 8-bit Floating Point Specification (OFP8) v1.0, section 5.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <bit>
#include <cstdint>

#include "simd/formats.h"
#include "simd/multiversion.h"

namespace mpkernels {

// The FP32 bits of a code, by integer arithmetic (a multiplication would read a subnormal, which
// torch.set_flush_denormal(True) turns into zero).
constexpr uint32_t fp8_to_fp32_bits(Fp8 format, uint8_t code) {
  const int mantissa_bits = format == Fp8::kE4M3 ? 3 : 2;
  const int bias = format == Fp8::kE4M3 ? 7 : 15;
  const uint32_t sign = (uint32_t)(code & 0x80) << 24;
  const uint32_t magnitude = code & 0x7f;
  if (format == Fp8::kE4M3 && magnitude == 0x7f) return sign | 0x7fc00000u;
  if (format == Fp8::kE5M2 && magnitude > 0x7c) return sign | 0x7fc00000u;
  if (format == Fp8::kE5M2 && magnitude == 0x7c) return sign | 0x7f800000u;
  if (magnitude == 0) return sign;
  uint32_t exponent = magnitude >> mantissa_bits;
  uint32_t mantissa = magnitude << (23 - mantissa_bits) & 0x7fffffu;
  if (exponent == 0) {
    // Shift the leading one to its implicit place, bit 23.
    const int shift = std::countl_zero(mantissa) - 8;
    mantissa = mantissa << shift & 0x7fffffu;
    exponent = (uint32_t)(1 - shift);  // wraps below 0; adding 127 - bias brings it back
  }
  return sign | (exponent + (uint32_t)(127 - bias)) << 23 | mantissa;
}

// What the decoders look up. The BF16 tables are indexed by the magnitude (the sign is added), one
// for each byte of the result, so that each is one two-register byte permutation.
struct Fp8Tables {
  alignas(64) std::array<uint8_t, 128> bf16_low, bf16_high;
  std::array<float, 256> fp32;
};

constexpr Fp8Tables make_fp8_tables(Fp8 format) {
  Fp8Tables tables{};
  for (int code = 0; code < 256; ++code) {
    const uint32_t bits = fp8_to_fp32_bits(format, (uint8_t)code);
    tables.fp32[code] = std::bit_cast<float>(bits);
    if (code < 128) {
      tables.bf16_low[code] = (uint8_t)(bits >> 16);
      tables.bf16_high[code] = (uint8_t)(bits >> 24);
    }
  }
  return tables;
}

inline constexpr Fp8Tables kE4M3Tables = make_fp8_tables(Fp8::kE4M3);
inline constexpr Fp8Tables kE5M2Tables = make_fp8_tables(Fp8::kE5M2);

inline const Fp8Tables& fp8_tables(Fp8 format) {
  return format == Fp8::kE4M3 ? kE4M3Tables : kE5M2Tables;
}

#if defined(__x86_64__)

// Decodes 64 codes to BF16 in 5 instructions: vpermi2b looks up 128 entries and ignores bit 7.
struct Bf16Decoder {
  __m512i low[2], high[2];
};

MPK_INLINE MPK_AVX512_BF16 Bf16Decoder bf16_decoder(const Fp8Tables& tables) {
  return {{_mm512_load_si512(tables.bf16_low.data()), _mm512_load_si512(&tables.bf16_low[64])},
          {_mm512_load_si512(tables.bf16_high.data()), _mm512_load_si512(&tables.bf16_high[64])}};
}

// By 128-bit lanes: lane i of `first` gets the lower 8 codes of lane i, lane i of `second` the
// upper.
MPK_INLINE MPK_AVX512_BF16 void decode_lanes(const Bf16Decoder& decoder, __m512i codes,
                                             __m512i& first, __m512i& second) {
  const __m512i low = _mm512_permutex2var_epi8(decoder.low[0], codes, decoder.low[1]);
  const __m512i magnitude = _mm512_permutex2var_epi8(decoder.high[0], codes, decoder.high[1]);
  // 0xea: a & b | c
  const __m512i high =
      _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8((char)0x80), magnitude, 0xea);
  first = _mm512_unpacklo_epi8(low, high);
  second = _mm512_unpackhi_epi8(low, high);
}

// In order: `first` gets codes 0 to 31, `second` codes 32 to 63.
MPK_INLINE MPK_AVX512_BF16 void decode64(const Bf16Decoder& decoder, __m512i codes, __m512i& first,
                                         __m512i& second) {
  const __m512i lane_order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  decode_lanes(decoder, _mm512_permutexvar_epi64(lane_order, codes), first, second);
}

// The first `count` of 64 codes, zeros after them.
MPK_INLINE MPK_AVX512_BF16 __m512i load_codes(const uint8_t* codes, int64_t count) {
  if (count >= 64) return _mm512_loadu_si512(codes);
  return _mm512_maskz_loadu_epi8(count <= 0 ? 0 : ~0ull >> (64 - count), codes);
}

#endif

}  // namespace mpkernels
