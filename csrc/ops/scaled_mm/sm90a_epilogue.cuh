// Sums to results: scales, bias, one rounding, and out.
//
// A result leaves in panels of 128 bytes by up to 64 rows, swizzled as TMA reads them. Each
// warpgroup has two panels in turn: while one is being filled, TMA reads the other. One barrier a
// panel is enough: before it the issuing thread waits for TMA to be done with the other panel, so
// behind it the new panel is whole and the other one free.
#pragma once

#include <utility>

#include "device/ptx/stmatrix.cuh"
#include "device/ptx/tma.cuh"
#include "device/ptx/warpgroup.cuh"
#include "ops/scaled_mm/element.cuh"
#include "ops/scaled_mm/sm90a_mainloop.cuh"

namespace mpkernels::scaled_mm::sm90a {

constexpr int kFp32Columns = 32, kHalfColumns = 64;  // of a panel

__device__ __forceinline__ uint32_t chunk_of(uint32_t panel, int row, int chunk) {
  return panel + row * 128 + ((chunk ^ (row % 8)) << 4);
}

// A warpgroup's part of the results. Panels alternate over the life of the kernel.
template <int kTile>
class Epilogue {
  static constexpr Tile kShape = kTiles[kTile];
  static constexpr int kBiasPerThread = (kShape.bias_values() + kWarpgroup - 1) / kWarpgroup;
  static constexpr int kPanelRows = kShape.swapped ? kShape.columns : 64;
  static constexpr int kColumns = kShape.swapped ? 64 : kShape.columns;  // of out, of a slice
  template <int kWidth>
  using Panels = std::make_integer_sequence<int, kShape.slices() * kColumns / kWidth>;

 public:
  __device__ __forceinline__ Epilogue(const Params& p, uint32_t shared, int warpgroup)
      : p_(p),
        panels_(shared + kShape.panels_at() + warpgroup * kPanels * kPanelBytes),
        bias_(shared + kShape.bias_at() + warpgroup * kShape.bias_values() * 4),
        warpgroup_(warpgroup),
        thread_(threadIdx.x % kWarpgroup),
        warp_(thread_ / 32),
        lane_(thread_ % 32) {
    if (p.dequant_scale_a != nullptr) factor_ = __fmul_rn(*p.dequant_scale_a, *p.dequant_scale_b);
  }

  // Before the products, which hide the latency.
  __device__ __forceinline__ void fetch_bias(const Work& work) {
    if (p_.bias == nullptr) return;
    const int first = first_bias(work);
#pragma unroll
    for (int i = 0; i < kBiasPerThread; ++i) {
      const int j = first + i * kWarpgroup + thread_;
      held_bias_[i] = j < p_.n ? load_element(p_.bias, j, p_.bias_type) : 0.f;
    }
  }

  __device__ __forceinline__ void finish(const Sums<kTile>& sums, const Work& work) {
    if (p_.bias != nullptr) {
#pragma unroll
      for (int i = 0; i < kBiasPerThread; ++i)
        if (i * kWarpgroup + thread_ < kShape.bias_values())
          store_shared(bias_ + (i * kWarpgroup + thread_) * 4, held_bias_[i]);
      ptx::sync_warpgroup(barrier());
    }
    emit_all(sums, work);
  }

 private:
  __device__ __forceinline__ uint32_t barrier() const { return 1 + warpgroup_; }
  __device__ __forceinline__ int first_bias(const Work& work) const {
    return kShape.swapped ? work.x_tile * kShape.rows + warpgroup_ * kShape.bias_values()
                          : work.y_tile * kShape.columns;
  }
  __device__ __forceinline__ float finished(float sum, float bias) const {
    return __fadd_rn(__fmul_rn(sum, factor_), bias);
  }

  // The loop over panels stays a loop, so that there is one copy of the code that emits them; which
  // sums fill a panel is a uniform branch.
  __device__ __forceinline__ void emit_all(const Sums<kTile>& sums, const Work& work) {
    const bool fp32 = p_.out_type == HighPrecision::kFloat32 || p_.emit == Emit::kElements;
    const int width = fp32 ? kFp32Columns : kHalfColumns;
    const int panels = kColumns / width;  // of a slice
    int row = work.split * p_.split_rows +
              (kShape.swapped ? work.y_tile * kShape.columns : work.x_tile * kShape.rows);
    int column = kShape.swapped ? first_bias(work) : work.y_tile * kShape.columns;
    if (!kShape.swapped) row += warpgroup_ * kShape.slices() * 64;
#pragma unroll 1
    for (int i = 0; i < kShape.slices() * panels; ++i) {
      if (fp32)
        fill<HighPrecision::kFloat32>(sums, i, Panels<kFp32Columns>());
      else if (p_.out_type == HighPrecision::kBFloat16)
        fill<HighPrecision::kBFloat16>(sums, i, Panels<kHalfColumns>());
      else
        fill<HighPrecision::kFloat16>(sums, i, Panels<kHalfColumns>());
      const int slice = i / panels;
      emit(row + slice * 64, column + (i - slice * panels) * width);
    }
  }

  template <HighPrecision kStaged, int... kPanel>
  __device__ __forceinline__ void fill(const Sums<kTile>& sums, int which,
                                       std::integer_sequence<int, kPanel...>) const {
    ((which == kPanel ? fill_panel<kStaged, kPanel>(sums) : void()), ...);
  }

  template <HighPrecision kStaged, int kPanel>
  __device__ __forceinline__ void fill_panel(const Sums<kTile>& sums) const {
    constexpr bool kFp32 = kStaged == HighPrecision::kFloat32;
    constexpr int kWidth = kFp32 ? kFp32Columns : kHalfColumns;
    constexpr int kSlice = kPanel / (kColumns / kWidth);
    constexpr int kFirst = kPanel % (kColumns / kWidth) * kWidth;
    if constexpr (kShape.swapped && kFp32) {
      if (warp_ * 16 / kFp32Columns == kPanel) fill_swapped_fp32(sums.of[0]);
    } else if constexpr (kShape.swapped) {
      fill_swapped<kStaged>(sums.of[0]);
    } else if constexpr (kFp32) {
      fill_fp32(sums.of[kSlice], kFirst);
    } else {
      fill_halves<kStaged>(sums.of[kSlice], kFirst);
    }
  }

  // Columns `first` to first + 63 of a slice.
  template <HighPrecision kOut, int kCount>
  __device__ __forceinline__ void fill_halves(const float (&d)[kCount], int first) const {
#pragma unroll
    for (int column = 0; column < kHalfColumns; column += 16) {
      uint32_t v[4];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const int at = first + column + tile * 8;
        const float2 bias = bias_pair(at + lane_ % 4 * 2);
        const float* sum = d + at / 2;
#pragma unroll
        for (int half = 0; half < 2; ++half)
          v[tile * 2 + half] =
              pack<kOut>(finished(sum[half * 2], bias.x), finished(sum[half * 2 + 1], bias.y));
      }
      ptx::store_matrices<false>(
          chunk_of(panel(), warp_ * 16 + lane_ % 16, column / 8 + lane_ / 16), v);
    }
  }

  // Columns `first` to first + 31 of a slice, two at a time. Lanes of odd rows take the 8-column
  // tiles in another order, so that the 16 lanes that are served together, four rows, hit all
  // banks: a row's 16-byte chunk c lies at c ^ (row % 8), and chunks {2 j, 2 j + 1} of tile j in
  // rows 2 i and 2 i + 1 would share their banks.
  template <int kCount>
  __device__ __forceinline__ void fill_fp32(const float (&d)[kCount], int first) const {
    const bool odd = lane_ / 4 % 2;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int even_at = first + step * 8, odd_at = first + (step ^ 2) * 8;
      const int tile = odd ? step ^ 2 : step;
      const float2 bias = bias_pair(first + tile * 8 + lane_ % 4 * 2);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int even_i = even_at / 2 + half * 2, odd_i = odd_at / 2 + half * 2;
        const float x = odd ? d[odd_i] : d[even_i], y = odd ? d[odd_i + 1] : d[even_i + 1];
        const int row = warp_ * 16 + lane_ / 4 + half * 8;
        store_shared_pair(chunk_of(panel(), row, tile * 2 + lane_ % 4 / 2) + lane_ % 2 * 8,
                          finished(x, bias.x), finished(y, bias.y));
      }
    }
  }

  // Rows of X are columns of out here: all of the 64, a row of the panel for each column of d.
  template <HighPrecision kOut, int kCount>
  __device__ __forceinline__ void fill_swapped(const float (&d)[kCount]) const {
    const float2 bias = swapped_bias();
#pragma unroll
    for (int column = 0; column < kShape.columns; column += 16) {
      uint32_t v[4];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const float* sum = d + (column + tile * 8) / 2;
        v[tile * 2] = pack<kOut>(finished(sum[0], bias.x), finished(sum[1], bias.x));
        v[tile * 2 + 1] = pack<kOut>(finished(sum[2], bias.y), finished(sum[3], bias.y));
      }
      const int row = column + lane_ / 16 * 8 + lane_ % 8;
      ptx::store_matrices<true>(chunk_of(panel(), row, warp_ * 2 + lane_ / 8 % 2), v);
    }
  }

  // By the two warps whose 32 columns of out the panel holds.
  template <int kCount>
  __device__ __forceinline__ void fill_swapped_fp32(const float (&d)[kCount]) const {
    const float2 bias = swapped_bias();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int row = i / 4 * 8 + lane_ % 4 * 2 + i % 2, half = i / 2 % 2;
      const int column = warp_ % 2 * 16 + half * 8 + lane_ / 4;
      store_shared(chunk_of(panel(), row, column / 4) + column % 4 * 4,
                   finished(d[i], half ? bias.y : bias.x));
    }
  }

  // Without a bias -0, which changes no sum.
  __device__ __forceinline__ float2 bias_pair(int column) const {
    float2 pair = {-0.f, -0.f};
    if (p_.bias != nullptr) pair = load_shared_pair(bias_ + column * 4);
    return pair;
  }
  __device__ __forceinline__ float2 swapped_bias() const {
    if (p_.bias == nullptr) return {-0.f, -0.f};
    const uint32_t at = bias_ + (warp_ * 16 + lane_ / 4) * 4;
    return {load_shared(at), load_shared(at + 8 * 4)};
  }

  __device__ __forceinline__ uint32_t panel() const { return panels_ + turn_ * kPanelBytes; }

  __device__ __forceinline__ void emit(int row, int column) {
    if (p_.emit != Emit::kElements) {
      ptx::publish_to_tma();
      if (thread_ == 0) ptx::wait_until_stores_have_read();
    }
    ptx::sync_warpgroup(barrier());
    if (p_.emit == Emit::kElements) {
      if (column + lane_ < p_.n) emit_elements(row, column);
    } else if (thread_ == 0) {
      if (p_.emit == Emit::kAddTile)
        ptx::add_tile(p_.out, panel(), column, row);
      else
        ptx::store_tile(p_.out, panel(), column, row);
      ptx::commit_stores();
    }
    turn_ ^= 1;
  }

  // A warp takes a row, 32 neighbouring elements, and four rows at a time, so that four loads are
  // under way.
  __device__ __forceinline__ void emit_elements(int row, int column) const {
    constexpr int kRows = 4;
#pragma unroll 1
    for (int first = warp_; first < kPanelRows; first += kWarpsPerWarpgroup * kRows) {
      float v[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int at = first + i * kWarpsPerWarpgroup;
        v[i] = p_.accumulate && row + at < p_.m
                   ? load_element(p_.elements, index(row + at, column), p_.out_type)
                   : -0.f;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int at = first + i * kWarpsPerWarpgroup;
        const float sum = load_shared(chunk_of(panel(), at, lane_ / 4) + lane_ % 4 * 4);
        if (row + at < p_.m)
          store_element(p_.elements, index(row + at, column), __fadd_rn(sum, v[i]), p_.out_type);
      }
    }
  }
  __device__ __forceinline__ int64_t index(int row, int column) const {
    return (int64_t)row * p_.pitch + column + lane_;
  }

  const Params& p_;
  const uint32_t panels_, bias_;
  const int warpgroup_, thread_, warp_, lane_;
  float factor_ = 1.f;
  float held_bias_[kBiasPerThread] = {};
  int turn_ = 0;
};

}  // namespace mpkernels::scaled_mm::sm90a
