// Lists of Torch tensors as what kernels take: pointers, sizes and types.
#pragma once

#include <vector>

#include "host/check.h"
#include "simd/multi_tensor.h"

namespace mpkernels {

inline FloatType float_type_of(const char* name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Float) return FloatType::kFloat32;
  if (type == ScalarType::BFloat16) return FloatType::kBFloat16;
  MPK_CHECK(type == ScalarType::Half, name, " has an unsupported dtype");
  return FloatType::kFloat16;
}

inline TensorDataList<void> mutable_data(const char* name, const std::vector<Tensor>& tensors) {
  TensorDataList<void> list;
  list.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    check_dense(name, t);
    list.push_back({t.mutable_data_ptr(), t.numel(), float_type_of(name, t)});
  }
  return list;
}

inline TensorDataList<const void> const_data(const char* name, const std::vector<Tensor>& tensors) {
  TensorDataList<const void> list;
  list.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    check_dense(name, t);
    list.push_back({t.const_data_ptr(), t.numel(), float_type_of(name, t)});
  }
  return list;
}

}  // namespace mpkernels
