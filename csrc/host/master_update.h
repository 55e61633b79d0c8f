// The arguments that adamw_update_ and sgd_update_ have in common, from Torch to plain C++.
#pragma once

#include <optional>
#include <vector>

#include "host/check.h"
#include "host/tensor_list.h"
#include "simd/master_update.h"

namespace mpkernels {

inline float scalar_or(float absent, const char* name, const std::optional<Tensor>& scalar) {
  if (!scalar) return absent;
  check_fp32_scalar(name, *scalar);
  return *(const float*)scalar->const_data_ptr();
}

inline GradientFactors gradient_factors(const std::optional<Tensor>& inv_loss_scale,
                                        const std::optional<Tensor>& grad_norm,
                                        double max_grad_norm, bool maximize) {
  float clip = 1.0f;
  if (grad_norm) clip = clip_factor(scalar_or(0.0f, "grad_norm", grad_norm), max_grad_norm);
  return {scalar_or(1.0f, "inv_loss_scale", inv_loss_scale), maximize ? -clip : clip};
}

// One scalar for each master.
inline std::vector<float*> scalar_pointers(const char* name, const std::vector<Tensor>& scalars,
                                           const std::vector<Tensor>& masters) {
  MPK_CHECK(scalars.size() == masters.size(), name, " must hold one tensor per master");
  std::vector<float*> pointers;
  pointers.reserve(scalars.size());
  for (const Tensor& scalar : scalars) {
    check_fp32_scalar(name, scalar);
    pointers.push_back((float*)scalar.mutable_data_ptr());
  }
  return pointers;
}

inline std::vector<float*> amax_pointers(const std::optional<std::vector<Tensor>>& amaxes,
                                         const std::vector<Tensor>& masters) {
  if (!amaxes) return {};
  return scalar_pointers("param_amaxes", *amaxes, masters);
}

inline TensorDataList<void> mutable_fp32_data(const char* name,
                                              const std::vector<Tensor>& tensors) {
  TensorDataList<void> list = mutable_data(name, tensors);
  for (const auto& tensor : list)
    MPK_CHECK(tensor.type == HighPrecision::kFloat32, name, " must be float32");
  return list;
}

// Every list that a kernel indexes by the masters' elements has as many.
template <typename Void>
void check_same_sizes(const char* name, const TensorDataList<void>& masters,
                      const TensorDataList<Void>& list) {
  MPK_CHECK(list.size() == masters.size(), name, " must hold one tensor per master");
  for (size_t i = 0; i < masters.size(); ++i)
    MPK_CHECK(list[i].numel == masters[i].numel && list[i].type == list[0].type, name,
              " must have the sizes of the masters and one dtype");
}

}  // namespace mpkernels
