// Stores that bypass the caches: for outputs too large to be found there later, they save reading
// every line before it is overwritten.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/multiversion.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace mpkernels {

constexpr int kCacheLine = 64;

// One line; both addresses are multiples of kCacheLine.
MPK_INLINE void stream_line(uint8_t* to, const uint8_t* from) {
#if defined(__x86_64__)
  for (int i = 0; i < kCacheLine; i += 16) {
    _mm_stream_si128((__m128i*)(to + i), _mm_load_si128((const __m128i*)(from + i)));
  }
#else
  memcpy(to, from, kCacheLine);
#endif
}

// Streamed lines become visible to other threads in order only after this.
MPK_INLINE void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace mpkernels
