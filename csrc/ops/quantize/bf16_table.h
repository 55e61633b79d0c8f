// BF16 -> FP8 by table, 64 elements in 18 instructions where the arithmetic of simd/fp8_encode.h
// needs 75: 4 times as many elements a second, so that memory and not the encoder is the limit.
//
// A BF16 value has only 128 mantissas. For a given quant_scale = unit * 2^s, 1 <= unit < 2, the
// product of 1.m * 2^e and quant_scale is 2^(e + s) times the product of 1.m and unit, rounding
// included, as long as FP32 neither overflows nor becomes subnormal; so the code of a normal
// result is
//     (e + s + bias) << mantissa bits, plus what 1.m * unit rounds to: table[m]
// in bytes. A byte permutation of two registers (VBMI) is a lookup in 128 bytes.
//
// Not so: results that may be subnormal or come from subnormal x (but zero is), Inf and NaN. A
// block with one of these is left to the caller's arithmetic.
#pragma once

#include <cstdint>

#include "simd/bits.h"
#include "simd/fp8_encode.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace mpkernels::quantize {

constexpr int kBf16Mantissas = 128;
constexpr uint32_t kFp32MantissaMask = 0x7fffffu;
constexpr uint32_t kFp32One = 0x3f800000u;

template <typename Format>
struct Bf16Table {
  alignas(64) uint8_t codes[kBf16Mantissas];  // of products with the smallest normal exponent
  int smallest;      // biased exponent of x from which on every product is normal in FP8
  bool is_complete;  // the table serves all exponents from `smallest` to 254

  explicit Bf16Table(float quant_scale) {
    const uint32_t magnitude = to_bits(quant_scale) & kFp32MagnitudeMask;
    // x has the biased exponent 127 + e, the scale 127 + s; 1 <= e + s + bias is a normal code.
    smallest = 128 + 127 - Format::kBias - (int)(magnitude >> 23);
    is_complete = magnitude >= 1u << 23 && magnitude < kFp32Inf && smallest >= 1;
    const float unit = from_bits((magnitude & kFp32MantissaMask) | kFp32One);
    for (uint32_t m = 0; m < kBf16Mantissas; ++m) {
      const uint32_t product = to_bits(from_bits(kFp32One | m << 16) * unit);
      // The exponent of 1 has the code bias << mantissa bits, the smallest normal 1 << the same.
      codes[m] = (uint8_t)(encode_fp8_magnitude<Format>(product) -
                           ((Format::kBias - 1) << Format::kMantissaBits));
    }
  }
};

struct BytesOfWords {
  alignas(64) uint8_t low[64], high[64];
};
constexpr BytesOfWords make_bytes_of_words() {
  BytesOfWords made{};
  for (int i = 0; i < 64; ++i) {
    made.low[i] = (uint8_t)(2 * i);
    made.high[i] = (uint8_t)(2 * i + 1);
  }
  return made;
}
constexpr BytesOfWords kBytesOfWords = make_bytes_of_words();

MPK_AVX512_BF16 inline uint32_t largest_word(__m512i words) {
  const __m256i half =
      _mm256_max_epu16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
  const __m128i quarter =
      _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  // The one horizontal instruction finds a minimum.
  const __m128i inverted = _mm_xor_si128(quarter, _mm_set1_epi16(-1));
  return 0xffffu - (uint32_t)_mm_extract_epi16(_mm_minpos_epu16(inverted), 0);
}

// x[0:n] -> q[0:n] for whole blocks of 64; `other(i)` encodes x[i:i + 64] where the table does not
// serve. `sign`: 0x80 if the scale is negative. Returns the FP32 bits of max |x|.
template <typename Format, typename Other>
MPK_AVX512_BF16 inline uint32_t encode_bf16_blocks(const Bf16Table<Format>& table, uint8_t sign,
                                                   const BFloat16* __restrict__ x,
                                                   uint8_t* __restrict__ q, int64_t n,
                                                   const Other& other) {
  constexpr int kMantissaBits = Format::kMantissaBits;
  const __m512i first = _mm512_load_si512(table.codes),
                second = _mm512_load_si512(table.codes + 64);
  const __m512i low = _mm512_load_si512(kBytesOfWords.low);
  const __m512i high = _mm512_load_si512(kBytesOfWords.high);
  const __m512i smallest = _mm512_set1_epi8((char)table.smallest);
  const __m512i served = _mm512_set1_epi8((char)(255 - table.smallest));  // 255: Inf and NaN
  // So many exponents above the smallest every code is beyond kMaxCode, and is still a byte: in
  // E4M3 (15 << 3) + 8 to (15 << 3) + 24, in E5M2 (30 << 2) + 4 to (30 << 2) + 12.
  const __m512i largest = _mm512_set1_epi8((char)(Format::kMaxCode >> kMantissaBits));
  const __m512i max_code = _mm512_set1_epi8((char)Format::kMaxCode);
  const __m512i sign_bit = _mm512_set1_epi8((char)0x80);
  const __m512i sign_of_scale = _mm512_set1_epi8((char)sign);
  __m512i amax = _mm512_setzero_si512();  // of magnitudes << 1
  for (int64_t i = 0; i < n; i += 64) {
    const __m512i a = _mm512_loadu_si512(x + i), b = _mm512_loadu_si512(x + i + 32);
    const __m512i a2 = _mm512_slli_epi16(a, 1), b2 = _mm512_slli_epi16(b, 1);
    amax = _mm512_max_epu16(amax, _mm512_max_epu16(a2, b2));
    const __m512i exponent = _mm512_permutex2var_epi8(a2, high, b2);
    const __m512i mantissa = _mm512_permutex2var_epi8(a, low, b);  // bit 7 is not looked at
    const __m512i signs = _mm512_xor_si512(_mm512_permutex2var_epi8(a, high, b), sign_of_scale);
    const __m512i from_smallest = _mm512_sub_epi8(exponent, smallest);  // wraps if below it
    const __mmask64 is_served = _mm512_cmplt_epu8_mask(from_smallest, served);
    const __m512i exponent_code =
        _mm512_slli_epi16(_mm512_min_epu8(from_smallest, largest), kMantissaBits);
    const __m512i code =
        _mm512_add_epi8(exponent_code, _mm512_permutex2var_epi8(first, mantissa, second));
    // Others than those served are zeros, of code 0, unless the block is encoded again.
    const __m512i finite = _mm512_maskz_min_epu8(is_served, code, max_code);
    // finite | (signs & sign_bit)
    _mm512_storeu_si512(q + i, _mm512_ternarylogic_epi32(finite, signs, sign_bit, 0xf8));
    if (is_served != ~(__mmask64)0) {
      const __m512i magnitude = _mm512_or_si512(exponent, mantissa);
      if (_mm512_mask_test_epi8_mask(~is_served, magnitude, magnitude)) other(i);
    }
  }
  return largest_word(amax) << 15;
}

}  // namespace mpkernels::quantize
#endif
