// What adamw_update_ and sgd_update_ share: how a gradient is read, how the low-precision copy is
// written, and the choice of a kernel by the two types.
#pragma once

#include <type_traits>

#include "simd/bits.h"
#include "simd/multi_tensor.h"

namespace mpkernels {

// float32(grad) * inv_loss_scale * clip, from left to right. To maximize, clip is negative: the
// product is then exactly the negated one.
struct GradientFactors {
  float inv_loss_scale, clip;
};

// min(1, max_grad_norm / (grad_norm + 1e-6)) as torch.nn.utils.clip_grad_norm_; NaN stays NaN.
inline float clip_factor(float grad_norm, double max_grad_norm) {
  const float ratio = (float)max_grad_norm / (grad_norm + 1e-6f);
  return ratio > 1.0f ? 1.0f : ratio;
}

template <typename Grad>
MPK_INLINE float load_gradient(Grad grad, GradientFactors factors) {
  return to_float(grad) * factors.inv_loss_scale * factors.clip;
}

// Stands for the type of the low-precision parameters where the masters are the parameters.
struct NoCopy {};

template <typename Copy>
MPK_INLINE void store_copy(float master, Copy* copy, int64_t i) {
  if constexpr (!std::is_same_v<Copy, NoCopy>) from_float(master, copy[i]);
}

template <typename T>
T* elements(const TensorData<void>& tensor, int64_t begin) {
  return (T*)tensor.data + begin;
}

template <typename Copy>
Copy* copy_elements(const TensorDataList<void>& params, const Chunk& chunk) {
  if constexpr (std::is_same_v<Copy, NoCopy>) return nullptr;
  return elements<Copy>(params[chunk.tensor], chunk.begin);
}

template <typename Grad, typename Body>
void for_copy_type(const TensorDataList<void>& params, const Body& body) {
  if (params.empty()) return body(Grad{}, NoCopy{});
  if (params[0].type == FloatType::kBFloat16) return body(Grad{}, BFloat16{});
  return body(Grad{}, Half{});
}

// Calls body(Grad{}, Copy{}) with the types of the lists' elements; a list has one type.
template <typename Body>
void for_types(const TensorDataList<const void>& grads, const TensorDataList<void>& params,
               const Body& body) {
  if (grads.empty()) return;
  if (grads[0].type == FloatType::kFloat32) return for_copy_type<float>(params, body);
  if (grads[0].type == FloatType::kBFloat16) return for_copy_type<BFloat16>(params, body);
  return for_copy_type<Half>(params, body);
}

}  // namespace mpkernels
