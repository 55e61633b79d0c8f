// A lane's consecutive elements of a tensor as one access of 8 or 16 bytes, and single elements.
#pragma once

#include "device/high_precision.cuh"

namespace mpkernels::device {

template <HighPrecision kFormat, int kElements>
struct Vector {
  using W = Words<kFormat>;
  using Element = typename W::Element;
  static constexpr int kWords = kElements / W::kElements;
  static constexpr int kBytes = 4 * kWords;
  static_assert(kBytes == 8 || kBytes == 16);
  uint32_t words[kWords];

  __device__ __forceinline__ void load(const Element* from) {
    if constexpr (kBytes == 16) {
      const uint4 raw = *(const uint4*)from;
      words[0] = raw.x, words[1] = raw.y, words[2] = raw.z, words[3] = raw.w;
    } else {
      const uint2 raw = *(const uint2*)from;
      words[0] = raw.x, words[1] = raw.y;
    }
  }

  __device__ __forceinline__ void store(Element* to) const {
    if constexpr (kBytes == 16)
      *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
    else
      *(uint2*)to = make_uint2(words[0], words[1]);
  }

  __device__ __forceinline__ void widen(float (&values)[kElements]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      float of_word[W::kElements];
      W::widen(words[i], of_word);
#pragma unroll
      for (int j = 0; j < W::kElements; ++j) values[i * W::kElements + j] = of_word[j];
    }
  }

  __device__ __forceinline__ void narrow(const float (&values)[kElements]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      float of_word[W::kElements];
#pragma unroll
      for (int j = 0; j < W::kElements; ++j) of_word[j] = values[i * W::kElements + j];
      words[i] = W::narrow(of_word);
    }
  }
};

template <HighPrecision kFormat>
__device__ __forceinline__ float widened(typename Words<kFormat>::Element element) {
  float values[Words<kFormat>::kElements];
  Words<kFormat>::widen(element, values);
  return values[0];
}

template <HighPrecision kFormat>
__device__ __forceinline__ typename Words<kFormat>::Element narrowed(float value) {
  float values[Words<kFormat>::kElements] = {value};
  return (typename Words<kFormat>::Element)Words<kFormat>::narrow(values);
}

}  // namespace mpkernels::device
