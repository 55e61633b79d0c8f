// The second kernel of a product whose K was split, and the only one of a product with K = 0.
#pragma once

#include "ops/scaled_mm/element.cuh"
#include "ops/scaled_mm/sm90a.h"

namespace mpkernels::scaled_mm::sm90a {

constexpr int kFinishColumns = 4;  // of a thread: 16 bytes of partial sums

__device__ __forceinline__ void store_four(const FinishParams& p, int64_t at, const float (&v)[4]) {
  if (p.out_type == HighPrecision::kFloat32)
    *(float4*)((float*)p.out + at) = make_float4(v[0], v[1], v[2], v[3]);
  else if (p.out_type == HighPrecision::kBFloat16)
    *(uint2*)((uint16_t*)p.out + at) = make_uint2(pack<HighPrecision::kBFloat16>(v[0], v[1]),
                                                  pack<HighPrecision::kBFloat16>(v[2], v[3]));
  else
    *(uint2*)((uint16_t*)p.out + at) = make_uint2(pack<HighPrecision::kFloat16>(v[0], v[1]),
                                                  pack<HighPrecision::kFloat16>(v[2], v[3]));
}

__device__ __forceinline__ void finish(const FinishParams& p) {
  const float factor = __fmul_rn(*p.dequant_scale_a, *p.dequant_scale_b);
  const int64_t per_row = (p.n + kFinishColumns - 1) / kFinishColumns;
  const int64_t threads = (int64_t)gridDim.x * kFinishThreads;
  int64_t unit = (int64_t)blockIdx.x * kFinishThreads + threadIdx.x;
  for (; unit < p.m * per_row; unit += threads) {
    const int64_t row = unit / per_row, column = (unit - row * per_row) * kFinishColumns;
    const float* partial = p.partials + row * p.partial_pitch + column;
    float4 sum = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
    for (int split = 0; split < p.splits; ++split, partial += p.split_stride) {
      const float4 more = *(const float4*)partial;
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    float v[kFinishColumns] = {sum.x, sum.y, sum.z, sum.w};
    const int64_t at = row * p.pitch + column;
    const int count = (int)min((int64_t)kFinishColumns, p.n - column);
#pragma unroll
    for (int i = 0; i < kFinishColumns; ++i) {
      v[i] = __fmul_rn(v[i], factor);
      if (i < count && p.bias != nullptr)
        v[i] = __fadd_rn(v[i], load_element(p.bias, column + i, p.bias_type));
      if (i < count && p.accumulate)
        v[i] = __fadd_rn(v[i], load_element(p.out, at + i, p.out_type));
    }
    if (p.wide && count == kFinishColumns) {
      store_four(p, at, v);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kFinishColumns; ++i)
      if (i < count) store_element(p.out, at + i, v[i], p.out_type);
  }
}

}  // namespace mpkernels::scaled_mm::sm90a
