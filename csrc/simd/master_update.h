// What adamw_update_ and sgd_update_ share: how a gradient is read, how the low-precision copy is
// written, and the choice of a kernel by the two types.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd/bits.h"
#include "simd/half.h"
#include "simd/multi_tensor.h"
#include "simd/stream.h"

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

// From here on the copy goes past the caches. An update moves 12 to 28 bytes an element, so before
// anybody can read the first copy again some 100 MB have followed it.
constexpr int64_t kStreamElements = 1 << 22;
constexpr int64_t kBlock = 1024;  // 4 KiB of gradient and 2 KiB of copy beside it in L1

// Calls body(begin, end, grad, copy) for the elements of a chunk. body reads grad[i - begin] and
// writes copy[i - begin]. It runs over the whole chunk, or over blocks where the copy is streamed
// or where FP16 is converted on the way: then grad is float and copy is NoCopy.
template <typename Grad, typename Copy, typename Body>
void for_blocks(const TensorDataList<void>& masters, const TensorDataList<void>& params,
                const TensorDataList<const void>& grads, const Chunk& chunk, bool stream,
                const Body& body) {
  constexpr bool kHasCopy = !std::is_same_v<Copy, NoCopy>;
  constexpr bool kWidens = std::is_same_v<Grad, Half>, kNarrows = std::is_same_v<Copy, Half>;
  stream = stream && kHasCopy;
  alignas(64) float wide_block[kWidens ? kBlock : 1];
  alignas(64) Copy copy_block[kHasCopy ? kBlock : 1];
  const int64_t stride = kWidens || kNarrows || stream ? kBlock : chunk.end - chunk.begin;
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += stride) {
    const int64_t end = std::min(chunk.end, begin + stride), n = end - begin;
    const Grad* grad = (const Grad*)grads[chunk.tensor].data + begin;
    Copy* param = kHasCopy ? elements<Copy>(params[chunk.tensor], begin) : nullptr;
    Copy* copy = stream ? copy_block : param;
    const auto run = [&](const auto* kernel_grad) {
      if constexpr (kNarrows) {
        body(begin, end, kernel_grad, (NoCopy*)nullptr);
        narrow(elements<float>(masters[chunk.tensor], begin), copy, n);
      } else {
        body(begin, end, kernel_grad, copy);
      }
    };
    if constexpr (kWidens) {
      widen(grad, wide_block, n);
      run((const float*)wide_block);
    } else {
      run(grad);
    }
    if (stream) stream_bytes(param, copy, n * (int64_t)sizeof(Copy));
  }
  if (stream) stream_fence();
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
