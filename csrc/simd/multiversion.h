// Compiling one loop for several instruction sets and choosing at run time.
//
// target_clones would do the same but picks in the dynamic loader, out of reach of an environment
// variable, so the lower levels could not be tested on one machine. -ffp-contract=off makes all
// versions give the same bits.
#pragma once

#include "simd/capability.h"

#define MPK_INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define MPK_AVX2 __attribute__((target("avx2,fma,f16c")))
// prefer-vector-width: g++ otherwise stays with 256-bit vectors.
#define MPK_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,prefer-vector-width=512")))
// VBMI (byte permutations) comes with BF16 on every CPU but Cooper Lake, which stays at AVX512.
#define MPK_AVX512_BF16                                                                 \
  __attribute__((                                                                       \
      target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16,fma,f16c,prefer" \
             "-vector-width=512")))
#else
#define MPK_AVX2
#define MPK_AVX512
#define MPK_AVX512_BF16
#endif

#define MPK_UNPAREN(...) __VA_ARGS__

// Given an MPK_INLINE function `name##_body`, defines `name` with the same parameters, which runs
// the copy of the body that was compiled for capability(). `prefix` is () or a parenthesised
// template header: (template <typename In>). The body must hold no lambda: a lambda would not
// inherit the target.
#define MPK_MULTIVERSION(prefix, result, name, params, args)                                    \
  MPK_UNPAREN prefix static result name##_default params { return name##_body args; }           \
  MPK_UNPAREN prefix MPK_AVX2 static result name##_avx2 params { return name##_body args; }     \
  MPK_UNPAREN prefix MPK_AVX512 static result name##_avx512 params { return name##_body args; } \
  MPK_UNPAREN prefix static result name params {                                                \
    const Capability level = capability();                                                      \
    if (level >= kAvx512) return name##_avx512 args;                                            \
    return level >= kAvx2 ? name##_avx2 args : name##_default args;                             \
  }
