// From sums in the registers of a block to out. The sums are staged in shared memory, times the
// dequant scales, so that out is read and written 16 bytes at a time; then bias, then out, and one
// rounding, in FP32 and in the contract's order.
#pragma once

#include "device/high_precision.cuh"
#include "device/ptx/load_store.cuh"
#include "ops/scaled_mm/mma_plan.h"

namespace mpkernels::scaled_mm {

using device::Words;

// The float of row `row` and column `column` of the staged tile. A lane of 16-bit output reads two
// chunks of 16 bytes side by side, first the even ones, then the odd ones: 8 lanes of every other
// chunk of 256 bytes, which the exchange of the chunks of each second 128 bytes spreads over all
// banks.
template <int kColumns>
__device__ __forceinline__ int staged(int row, int column) {
  return row * (kColumns + kStagePadding / 4) + (column ^ (column >> 5 & 1) * 4);
}

__device__ __forceinline__ float load_as_float(const void* data, HighPrecision type, int64_t i) {
  if (type == HighPrecision::kFloat32) return ((const float*)data)[i];
  const uint32_t half = ((const uint16_t*)data)[i];
  float wide[2];
  if (type == HighPrecision::kBFloat16)
    Words<HighPrecision::kBFloat16>::widen(half, wide);
  else
    Words<HighPrecision::kFloat16>::widen(half, wide);
  return wide[0];
}

// Rows of out in 16-byte accesses. Columns past N are whole accesses.
template <HighPrecision kOut, class Tile>
__device__ __forceinline__ void store_vectors(const MmaParams& p, const float* stage, int64_t m,
                                              int64_t n) {
  using W = Words<kOut>;
  constexpr int kElements = 4 * W::kElements;
  constexpr int kLanes = Tile::kN / kElements, kRows = Tile::kThreads / kLanes;
  const int column = threadIdx.x % kLanes * kElements, first = threadIdx.x / kLanes;
  if (n + column >= p.n) return;
  float bias[kElements];
  if (p.bias != nullptr)
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      bias[i] = load_as_float(p.bias, p.bias_type, n + column + i);
  const int rows = (int)min((int64_t)Tile::kM, p.m - m);
  auto* out = (typename W::Element*)p.out + (m + first) * p.out_pitch + n + column;
#pragma unroll 2
  for (int row = first; row < rows; row += kRows, out += kRows * p.out_pitch) {
    float v[kElements];
#pragma unroll
    for (int i = 0; i < kElements; i += 4)
      *(float4*)(v + i) = *(const float4*)(stage + staged<Tile::kN>(row, column + i));
    if (p.bias != nullptr)
#pragma unroll
      for (int i = 0; i < kElements; ++i) v[i] += bias[i];
    if (p.accumulate) {
      const uint4 before = *(const uint4*)out;
      const uint32_t words[4] = {before.x, before.y, before.z, before.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float wide[W::kElements];
        W::widen(words[i], wide);
#pragma unroll
        for (int j = 0; j < W::kElements; ++j) v[i * W::kElements + j] += wide[j];
      }
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float narrow[W::kElements];
#pragma unroll
      for (int j = 0; j < W::kElements; ++j) narrow[j] = v[i * W::kElements + j];
      words[i] = W::narrow(narrow);
    }
    *(uint4*)out = {words[0], words[1], words[2], words[3]};
  }
}

// Element by element, for rows that begin or end in the middle of 16 bytes: a warp a row.
template <HighPrecision kOut, class Tile>
__device__ __noinline__ void store_elements(const MmaParams& p, const float* stage, int64_t m,
                                            int64_t n) {
  using W = Words<kOut>;
  const int rows = (int)min((int64_t)Tile::kM, p.m - m);
  const int columns = (int)min((int64_t)Tile::kN, p.n - n);
#pragma unroll 1
  for (int column = threadIdx.x % 32; column < columns; column += 32) {
    const float bias = p.bias ? load_as_float(p.bias, p.bias_type, n + column) : 0.0f;
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < rows; row += Tile::kThreads / 32) {
      auto* out = (typename W::Element*)p.out + (m + row) * p.out_pitch + n + column;
      float v[W::kElements] = {stage[staged<Tile::kN>(row, column)]};
      if (p.bias) v[0] += bias;
      if (p.accumulate) v[0] += load_as_float(out, kOut, 0);
      *out = (typename W::Element)W::narrow(v);
    }
  }
}

template <HighPrecision kOut, class Tile>
__device__ __forceinline__ void store_tile(const MmaParams& p, const float* stage, int64_t m,
                                           int64_t n) {
  constexpr int kElements = 4 * Words<kOut>::kElements;
  if (p.aligned_rows && (n + Tile::kN <= p.n || p.n % kElements == 0))
    store_vectors<kOut, Tile>(p, stage, m, n);
  else
    store_elements<kOut, Tile>(p, stage, m, n);
}

// sums[i][j][r]: element r of the 16 x 8 tile (i, j) of the warp's part of the tile at (m, n).
// `factor`: a power of two that the sums are still to be multiplied by, exactly.
template <class Tile>
__device__ __forceinline__ void finish(const MmaParams& p, float* stage,
                                       const float (&sums)[Tile::kMmaM][Tile::kMmaN][4],
                                       float factor, int64_t m, int64_t n) {
  const float dequant_scale = *p.dequant_scale_a * *p.dequant_scale_b;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / Tile::kWarpsN * Tile::kMmaM * 16 + lane / 4;
  const int column = warp % Tile::kWarpsN * Tile::kMmaN * 8 + lane % 4 * 2;
  __syncthreads();  // the stages of the operands are read
#pragma unroll
  for (int i = 0; i < Tile::kMmaM; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kMmaN; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        ptx::store_shared(stage + staged<Tile::kN>(row + i * 16 + half * 8, column + j * 8),
                          sums[i][j][2 * half] * factor * dequant_scale,
                          sums[i][j][2 * half + 1] * factor * dequant_scale);
  __syncthreads();
  switch (p.out_type) {
    case HighPrecision::kFloat32:
      return store_tile<HighPrecision::kFloat32, Tile>(p, stage, m, n);
    case HighPrecision::kBFloat16:
      return store_tile<HighPrecision::kBFloat16, Tile>(p, stage, m, n);
    case HighPrecision::kFloat16:
      return store_tile<HighPrecision::kFloat16, Tile>(p, stage, m, n);
  }
}

}  // namespace mpkernels::scaled_mm
