// Passes over the elements of a gradient: the check for Inf and NaN, with or without the product.
#pragma once

#include <type_traits>

#include "device/gradients.h"
#include "device/multi_tensor.cuh"
#include "device/ptx/load_store.cuh"
#include "device/vector.cuh"

namespace mpkernels::device {

// Accesses of 16 bytes that a lane has in flight.
constexpr int kGradientAccesses = 4;

template <HighPrecision kFormat>
using GradientVector = Vector<kFormat, 16 / (int)sizeof(typename Words<kFormat>::Element)>;

// The sign bit of every element of a word that is Inf or NaN, and of no other: their exponents are
// all ones, and one more carries into the sign. (Bits below the signs are left over.)
template <HighPrecision kFormat>
__device__ __forceinline__ uint32_t non_finite_marks(uint32_t word) {
  constexpr uint32_t kExponentUnit = kFormat == HighPrecision::kFloat32    ? 0x00800000u
                                     : kFormat == HighPrecision::kBFloat16 ? 0x00800080u
                                                                           : 0x04000400u;
  return (word & Words<kFormat>::kMagnitudes) + kExponentUnit;
}

template <HighPrecision kFormat>
__device__ __forceinline__ bool is_marked(uint32_t marks) {
  return (marks & ~Words<kFormat>::kMagnitudes) != 0;
}

enum class Pass {
  kCheck,         // g
  kCheckProduct,  // round(g * inv_loss_scale)
  kUnscale,       // the same, and write it
};

// What the pass looks at, of one access.
template <HighPrecision kFormat, Pass kPass>
__device__ __forceinline__ uint32_t pass_over(GradientVector<kFormat>& v, float inv_loss_scale) {
  using V = GradientVector<kFormat>;
  constexpr int kElements = V::kWords * V::W::kElements;
  if constexpr (kPass != Pass::kCheck) {
    float values[kElements];
    v.widen(values);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[e] = __fmul_rn(values[e], inv_loss_scale);
    v.narrow(values);
  }
  uint32_t marks = 0;
#pragma unroll
  for (int w = 0; w < V::kWords; ++w) marks |= non_finite_marks<kFormat>(v.words[w]);
  return marks;
}

// True if this thread met Inf or NaN among its share of n elements. Inf and NaN times anything are
// Inf or NaN, so a bad gradient cannot hide in a product.
template <HighPrecision kFormat, Pass kPass>
__device__ __forceinline__ bool check_gradient(typename Words<kFormat>::Element* g, int n,
                                               float inv_loss_scale) {
  using V = GradientVector<kFormat>;
  constexpr int kElements = V::kWords * V::W::kElements;
  constexpr int kStride = kGradientThreads * kElements;
  uint32_t marks = 0;
  int i = threadIdx.x;
  if (is_aligned((uint64_t)g, V::kBytes)) {
    int v = threadIdx.x * kElements;
#pragma unroll 1
    for (; v + (kGradientAccesses - 1) * kStride + kElements <= n;
         v += kGradientAccesses * kStride) {
      V some[kGradientAccesses];
#pragma unroll
      for (int a = 0; a < kGradientAccesses; ++a) some[a].load(g + v + a * kStride);
#pragma unroll
      for (int a = 0; a < kGradientAccesses; ++a) {
        marks |= pass_over<kFormat, kPass>(some[a], inv_loss_scale);
        if constexpr (kPass == Pass::kUnscale) some[a].store(g + v + a * kStride);
      }
    }
#pragma unroll 1
    for (; v + kElements <= n; v += kStride) {
      V one;
      one.load(g + v);
      marks |= pass_over<kFormat, kPass>(one, inv_loss_scale);
      if constexpr (kPass == Pass::kUnscale) one.store(g + v);
    }
    i += n & ~(kElements - 1);
  }
#pragma unroll 1
  for (; i < n; i += kGradientThreads) {
    auto element = g[i];
    if constexpr (kPass != Pass::kCheck)
      element = narrowed<kFormat>(__fmul_rn(widened<kFormat>(element), inv_loss_scale));
    marks |= non_finite_marks<kFormat>(element);
    if constexpr (kPass == Pass::kUnscale) g[i] = element;
  }
  return is_marked<kFormat>(marks);
}

// body(std::integral_constant<HighPrecision, format>, pointer to the chunk).
template <typename Table, typename Body>
__device__ __forceinline__ auto with_gradient(const Table& table, const Chunk& chunk,
                                              const Body& body) {
  void* const data = table.tensors.data[0][chunk.tensor];
  switch ((HighPrecision)table.formats[chunk.tensor]) {
    case HighPrecision::kFloat32:
      return body(std::integral_constant<HighPrecision, HighPrecision::kFloat32>{},
                  (uint32_t*)data + chunk.begin);
    case HighPrecision::kBFloat16:
      return body(std::integral_constant<HighPrecision, HighPrecision::kBFloat16>{},
                  (uint16_t*)data + chunk.begin);
    default:
      return body(std::integral_constant<HighPrecision, HighPrecision::kFloat16>{},
                  (uint16_t*)data + chunk.begin);
  }
}

// 1 if any thread of the CTA has found something. All threads of a warp must call it together.
__device__ __forceinline__ void raise_found_inf(float* found_inf, bool found) {
  if (__any_sync(0xffffffffu, found) && threadIdx.x % 32 == 0) ptx::store_relaxed(found_inf, 1.0f);
}

}  // namespace mpkernels::device
