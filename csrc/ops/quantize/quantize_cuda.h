// quantize on a GPU: parameters and plan of its launch. Kernels: cuda.cu. quantize_current uses
// them too, with the scale from the partial maxima of an amax pass.
#pragma once

#include <cstdint>
#include <utility>

#include "host/launch.h"
#include "ops/compute_scale/compute_scale_cuda.h"
#include "simd/formats.h"
#include "simd/rows.h"

namespace mpkernels::quantize {

constexpr int kTile = 128;  // rows and columns of x that a block encodes
constexpr int kThreads = 256;

// The scale of current scaling: made from partial maxima by every block, written by one.
struct CurrentScale {
  const uint32_t* partial_amaxes;  // FP32 bits; null: quant_scale is given
  int count;
  compute_scale::ScaleRule rule;
  float *amax, *quant_scale, *dequant_scale;
};

struct QuantizeParams {
  const void* x;
  int64_t rows, columns, pitch;  // as they lie in memory
  int64_t last_columns;          // of the last row: less than `columns` where x is flat
  CodeRows q;                    // rows as those of x
  CodeRows q_t;                  // rows are columns of x
  const float* quant_scale;
  uint32_t* amax;  // FP32 bits; null: not wanted
  CurrentScale current;
  uint32_t tiles, tiles_across;
  int access;    // bytes: the widest access, at most 16, that the begin of every row of x allows
  bool is_flat;  // q ends with its last element, not after 16 bytes
};

// Which of its outputs a kernel has.
enum class Outputs { kQ, kQT, kBoth };

struct QuantizePlan {
  QuantizeParams params;
  Outputs outputs;
  LaunchShape shape;  // no blocks if x is empty
};

// q, q_t: of the tensor's shape and its transpose. The scale and amax are for the caller to fill
// in.
inline QuantizePlan plan_quantize(Rows x, HighPrecision input, CodeRows q, CodeRows q_t) {
  if (x.transposed) std::swap(q, q_t);
  int64_t last_columns = x.columns;
  const bool is_flat = !q_t.data && x.is_dense() && (x.rows <= 1 || q.pitch == x.columns);
  if (is_flat) {  // flat: rows of one tile's width, the last one as long as it is
    const int64_t numel = x.rows * x.columns;
    const int64_t rows = (numel + kTile - 1) / kTile;
    last_columns = numel - (rows - 1) * kTile;
    x = {x.data, rows, kTile, kTile, false};
    q.pitch = kTile;
  }
  QuantizeParams p{};
  p.x = x.data;
  p.rows = x.rows, p.columns = x.columns, p.pitch = x.pitch, p.last_columns = last_columns;
  p.q = q, p.q_t = q_t;
  const int64_t across = (x.columns + kTile - 1) / kTile, down = (x.rows + kTile - 1) / kTile;
  p.tiles = (uint32_t)(across * down), p.tiles_across = (uint32_t)across;
  const int64_t element = input == HighPrecision::kFloat32 ? 4 : 2;
  const uint64_t begins = (uint64_t)x.data | (uint64_t)(x.pitch * element) | 16;
  p.access = (int)(begins & -begins);  // the lowest bit
  p.is_flat = is_flat;
  const Outputs outputs = !q_t.data ? Outputs::kQ : q.data ? Outputs::kBoth : Outputs::kQT;
  return {p, outputs, {{p.tiles}, {kThreads}}};
}

void quantize_cuda(const QuantizePlan& plan, HighPrecision input, Fp8 format, Stream stream);

}  // namespace mpkernels::quantize
