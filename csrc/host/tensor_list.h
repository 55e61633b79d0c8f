// Lists of Torch tensors as what kernels take: pointers, sizes and types.
#pragma once

#include <vector>

#include "host/check.h"
#include "host/formats.h"
#include "simd/multi_tensor.h"

namespace mpkernels {

inline TensorDataList<void> mutable_data(const char* name, const std::vector<Tensor>& tensors) {
  TensorDataList<void> list;
  list.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    check_dense(name, t);
    list.push_back({t.mutable_data_ptr(), t.numel(), high_precision_of(t.scalar_type())});
  }
  return list;
}

inline TensorDataList<const void> const_data(const char* name, const std::vector<Tensor>& tensors) {
  TensorDataList<const void> list;
  list.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    check_dense(name, t);
    list.push_back({t.const_data_ptr(), t.numel(), high_precision_of(t.scalar_type())});
  }
  return list;
}

}  // namespace mpkernels
