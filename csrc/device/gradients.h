// A list of gradients of mixed dtypes as kernel parameters: what unscale_and_check_ and
// grad_norm_and_check share between their launchers and their kernels.
#pragma once

#include <vector>

#include "device/tensor_table.h"
#include "simd/formats.h"

namespace mpkernels {

constexpr int kGradientThreads = 256;
constexpr int kGradientCtasPerSm = 4;  // 64 bytes in flight a thread are then 64 KB an SM
// 64 or 128 KB: long enough that finding the tensor costs nothing beside it, short enough that a
// list of 100 M elements gives every CTA several.
constexpr int kGradientChunk = 32768;

template <int kBytes, int kOther>
struct GradientTable {
  static constexpr int kCapacity = table_capacity(kBytes, 1, kOther, 1);
  TensorTable<1, kCapacity> tensors;
  uint8_t formats[kCapacity];  // HighPrecision
};

struct GradientList {
  std::vector<int64_t> numels;
  std::vector<void*> data;
  std::vector<HighPrecision> formats;
};

template <int kBytes, int kOther>
void fill_gradients(GradientTable<kBytes, kOther>& table, const GradientList& grads,
                    const TableSpan& span) {
  fill_table(table.tensors, grads.numels, kGradientChunk, span,
             [&](int, size_t t) { return grads.data[t]; });
  for (size_t slot = 0; slot < span.count; ++slot)
    table.formats[slot] = (uint8_t)grads.formats[span.first + slot];
}

}  // namespace mpkernels
