// Stores past the caches, for results that nobody reads soon: they save reading the lines that they
// overwrite.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/multiversion.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace mpkernels {

constexpr int kCacheLine = 64;

// Copies, with non-temporal stores as far as `to` is aligned for them. stream_fence() orders them
// before what the thread stores next.
MPK_INLINE void stream_bytes(void* to, const void* from, int64_t bytes) {
#if defined(__x86_64__)
  if ((uintptr_t)to % 16 == 0) {
    const int64_t whole = bytes / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
      _mm_stream_si128((__m128i*)((char*)to + i),
                       _mm_loadu_si128((const __m128i*)((const char*)from + i)));
    memcpy((char*)to + whole, (const char*)from + whole, bytes - whole);
    return;
  }
#endif
  memcpy(to, from, bytes);
}

MPK_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace mpkernels
