// What adamw_update_ and sgd_update_ share: how a gradient is read and how the low-precision copy
// is written. The updates themselves see FP32 only.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "simd/convert.h"
#include "simd/magnitude.h"
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

MPK_INLINE float scaled_gradient(float grad, GradientFactors factors) {
  return grad * factors.inv_loss_scale * factors.clip;
}

inline float* fp32_elements(const TensorData<void>& tensor, int64_t begin) {
  return (float*)tensor.data + begin;
}

// From here on the copy goes past the caches. An update moves 12 to 28 bytes an element, so before
// anybody can read the first copy again some 100 MB have followed it.
constexpr int64_t kStreamElements = 1 << 22;
// Elements converted at a time. So few that the core has the next block's loads in flight while it
// still converts this one's copy: for 32 M parameters 16 ms, against 17.5 with 1024 and 23 with
// 4096.
constexpr int64_t kBlock = 128;

// The FP32 values of n elements from `begin` on: the tensor's own memory, or `block`, filled.
inline const float* widened(const TensorData<const void>& grad, int64_t begin, int64_t n,
                            float* block) {
  switch (grad.type) {
    case HighPrecision::kFloat32:
      return (const float*)grad.data + begin;
    case HighPrecision::kBFloat16:
      widen((const BFloat16*)grad.data + begin, block, n);
      return block;
    default:
      widen((const Half*)grad.data + begin, block, n);
      return block;
  }
}

// param[begin:begin + n] = round(master), past the caches if `stream`.
template <typename Copy>
void write_copy(const float* master, const TensorData<void>& param, int64_t begin, int64_t n,
                bool stream) {
  Copy* const to = (Copy*)param.data + begin;
  if (!stream) return narrow(master, to, n);
  alignas(64) Copy block[kBlock];
  narrow(master, block, n);
  stream_bytes(to, block, n * (int64_t)sizeof(Copy));
}

// The FP32 value of what a copy in this format would hold.
inline float as_copied(float master, HighPrecision type) {
  BFloat16 bf16;
  Half half;
  switch (type) {
    case HighPrecision::kFloat32:
      return master;
    case HighPrecision::kBFloat16:
      from_float(master, bf16);
      return to_float(bf16);
    default:
      from_float(master, half);
      return to_float(half);
  }
}

// The amaxes of the parameters, where they are wanted, from the masters: rounding keeps the order
// of magnitudes, so the largest rounded is the rounded largest.
class ParamAmaxes {
 public:
  explicit ParamAmaxes(const std::vector<float*>& amaxes) : amaxes_(amaxes), most_(amaxes.size()) {}

  bool wanted() const { return !amaxes_.empty(); }
  void add(int64_t tensor, uint32_t magnitude) { raise_max(most_[tensor], magnitude); }

  void write(const TensorDataList<void>& params) const {
    for (size_t t = 0; t < amaxes_.size(); ++t) {
      const auto type = params.empty() ? HighPrecision::kFloat32 : params[t].type;
      *amaxes_[t] = as_copied(from_bits(most_[t].load()), type);
    }
  }

 private:
  const std::vector<float*>& amaxes_;
  std::vector<std::atomic<uint32_t>> most_;
};

// Runs update(tensor, begin, end, grad) over the elements of all tensors, in blocks and from
// several threads, and writes the copies, and the amaxes if there are any. grad holds the FP32
// gradients of [begin, end).
template <typename Update>
void for_master_blocks(const TensorDataList<void>& masters, const TensorDataList<void>& params,
                       const TensorDataList<const void>& grads, const std::vector<float*>& amaxes,
                       const Update& update) {
  const ChunkedList chunks(grads);
  ParamAmaxes param_amaxes(amaxes);
  const bool stream = chunks.numel() >= kStreamElements;
  chunks.for_each([&](const Chunk& chunk) {
    const int64_t t = chunk.tensor;
    const bool converts = !params.empty() || grads[t].type != HighPrecision::kFloat32;
    const int64_t stride = converts ? kBlock : kChunkElements;
    alignas(64) float grad_block[kBlock];
    uint32_t most = 0;
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += stride) {
      const int64_t end = std::min(chunk.end, begin + stride), n = end - begin;
      update(t, begin, end, widened(grads[t], begin, n, grad_block));
      const float* master = fp32_elements(masters[t], begin);
      if (param_amaxes.wanted()) most = std::max(most, max_magnitude(master, n));
      if (params.empty()) continue;
      if (params[t].type == HighPrecision::kBFloat16)
        write_copy<BFloat16>(master, params[t], begin, n, stream);
      else
        write_copy<Half>(master, params[t], begin, n, stream);
    }
    if (param_amaxes.wanted()) param_amaxes.add(t, most);
    stream_fence();
  });
  param_amaxes.write(params);
}

}  // namespace mpkernels
