// What adamw_update_ and sgd_update_ share on the device: the pass over the elements of a chunk,
// and the scalars of a step. Must compute what csrc/simd/master_update.h does, to the bit: every
// operation is written as one that rounds by itself and cannot be fused.
#pragma once

#include "device/master_update.h"
#include "device/multi_tensor.cuh"
#include "device/ptx/max.cuh"
#include "device/reduce.cuh"
#include "device/vector.cuh"

namespace mpkernels::device {

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }

// What all tensors of a step share.
struct StepScalars {
  float inv_loss_scale, clip;
  float lr;
  float skip;  // 1: found_inf was set, nothing may be written
};

// One tensor's part of the workspace: a sector.
template <typename Own>
struct TensorScalars {
  StepScalars step;
  Own own;
};

__device__ __forceinline__ double learning_rate(const StepParams& p) {
  return p.lr_tensor != nullptr ? (double)*p.lr_tensor : p.lr;
}

__device__ __forceinline__ StepScalars step_scalars(const StepParams& p) {
  StepScalars scalars;
  scalars.inv_loss_scale = p.inv_loss_scale != nullptr ? *p.inv_loss_scale : 1.0f;
  float clip = 1.0f;
  if (p.grad_norm != nullptr) {
    clip = __fdiv_rn(p.max_grad_norm, add(*p.grad_norm, 1e-6f));
    clip = clip > 1.0f ? 1.0f : clip;  // NaN stays NaN
  }
  // To maximize: the product with a negative clip is exactly the negated one.
  scalars.clip = p.maximize ? -clip : clip;
  scalars.lr = (float)learning_rate(p);
  scalars.skip = p.found_inf != nullptr && *p.found_inf != 0.0f ? 1.0f : 0.0f;
  return scalars;
}

// Advances the counters, fills the workspace and clears the amaxes, which the large kernel raises:
// of_tensor(done) makes a tensor's own scalars from the number of updates done before.
template <typename Own, typename P, typename OfTensor>
__device__ __forceinline__ void prepare_step(const P& p, const OfTensor& of_tensor) {
  static_assert(sizeof(TensorScalars<Own>) == kScalarBytes);
  const uint32_t t = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (t >= p.count) return;
  auto& scalars = ((TensorScalars<Own>*)p.scalars)[p.first + t];
  scalars.step = step_scalars(p.step);
  if (scalars.step.skip != 0.0f) return;
  float* const step = p.of_tensor[0][t];
  const float done = *step;
  scalars.own = of_tensor(done);
  *step = add(done, 1.0f);
  if constexpr (P::kAmaxes) *p.of_tensor[1][t] = 0.0f;
}

// Each lane loads one word, so that a warp asks for a sector and not for 32 copies of it.
template <typename Own>
__device__ __forceinline__ TensorScalars<Own> load_scalars(const void* workspace, uint32_t tensor) {
  constexpr int kWords = kScalarBytes / sizeof(float);
  const float word = ((const float*)workspace)[tensor * kWords + threadIdx.x % kWords];
  union {
    float words[kWords];
    TensorScalars<Own> scalars;
  } all;
#pragma unroll
  for (int i = 0; i < kWords; ++i) all.words[i] = __shfl_sync(0xffffffffu, word, i);
  return all.scalars;
}

// Where a chunk of one tensor is: kStates FP32 lists, the master first, the gradient and, unless
// kCopy is FP32 (the master is the parameter), the low-precision copy.
template <int kStates_, HighPrecision kGrad_, HighPrecision kCopy_>
struct UpdateLists {
  static constexpr int kStates = kStates_;
  static constexpr HighPrecision kGrad = kGrad_, kCopy = kCopy_;
  static constexpr bool kHasCopy = kCopy != HighPrecision::kFloat32;
  // Of one lane, that move together: 16 bytes of each FP32 list, and 8 of a 16-bit one. (16 bytes
  // of those are 8 elements; the FP32 accesses would then be at a stride of 32 bytes and touch
  // twice the sectors.)
  static constexpr int kElements = 4;
  using States = Vector<HighPrecision::kFloat32, kElements>;
  using Grad = Vector<kGrad, kElements>;
  using Copy = Vector<kCopy, kElements>;

  uint32_t* states[kStates];
  const typename Grad::Element* grad;
  typename Copy::Element* copy;

  template <typename Table>
  __device__ __forceinline__ UpdateLists(const Table& table, const Chunk& chunk) {
#pragma unroll
    for (int s = 0; s < kStates; ++s)
      states[s] = (uint32_t*)table.data[s][chunk.tensor] + chunk.begin;
    grad = (const typename Grad::Element*)table.data[kStates][chunk.tensor] + chunk.begin;
    copy = (typename Copy::Element*)table.data[kStates + 1][chunk.tensor] + chunk.begin;
  }

  __device__ __forceinline__ bool are_aligned() const {
    uint64_t addresses = 0;
#pragma unroll
    for (int s = 0; s < kStates; ++s) addresses |= (uint64_t)states[s];
    return is_aligned(addresses, States::kBytes) && is_aligned((uint64_t)grad, Grad::kBytes) &&
           (!kHasCopy || is_aligned((uint64_t)copy, Copy::kBytes));
  }
};

template <typename Lists>
struct LaneElements {
  typename Lists::States states[Lists::kStates];
  typename Lists::Grad grad;

  __device__ __forceinline__ void load(const Lists& from, int i) {
#pragma unroll
    for (int s = 0; s < Lists::kStates; ++s) states[s].load(from.states[s] + i);
    grad.load(from.grad + i);
  }

  template <typename Update>
  __device__ __forceinline__ void update_and_store(const Lists& to, int i, const Update& update) {
    float values[Lists::kStates][Lists::kElements], gradients[Lists::kElements];
    grad.widen(gradients);
#pragma unroll
    for (int s = 0; s < Lists::kStates; ++s) states[s].widen(values[s]);
    update(values, gradients);
#pragma unroll
    for (int s = 0; s < Lists::kStates; ++s) {
      states[s].narrow(values[s]);
      states[s].store(to.states[s] + i);
    }
    if constexpr (Lists::kHasCopy) {
      typename Lists::Copy copy;
      copy.narrow(values[0]);
      copy.store(to.copy + i);
    }
  }
};

// update(values, gradients) for n elements, some at a time: values[s] are those of state s, in
// place; afterwards copy = round(values[0]).
template <typename Lists, typename Update>
__device__ __forceinline__ void update_chunk(const Lists& lists, int n, const Update& update) {
  int i = threadIdx.x;
  if (lists.are_aligned()) {
    constexpr int kStride = kUpdateThreads * Lists::kElements;
    int v = threadIdx.x * Lists::kElements;
    // Two at a time, so that all their loads are on their way before the first is used.
#pragma unroll 1
    for (; v + kStride + Lists::kElements <= n; v += 2 * kStride) {
      LaneElements<Lists> first, second;
      first.load(lists, v);
      second.load(lists, v + kStride);
      first.update_and_store(lists, v, update);
      second.update_and_store(lists, v + kStride, update);
    }
    if (v + Lists::kElements <= n) {
      LaneElements<Lists> last;
      last.load(lists, v);
      last.update_and_store(lists, v, update);
    }
    i += n & ~(Lists::kElements - 1);
  }
#pragma unroll 1
  for (; i < n; i += kUpdateThreads) {
    float values[Lists::kStates][1], gradient[1] = {widened<Lists::kGrad>(lists.grad[i])};
#pragma unroll
    for (int s = 0; s < Lists::kStates; ++s) values[s][0] = __uint_as_float(lists.states[s][i]);
    update(values, gradient);
#pragma unroll
    for (int s = 0; s < Lists::kStates; ++s) lists.states[s][i] = __float_as_uint(values[s][0]);
    if constexpr (Lists::kHasCopy) lists.copy[i] = narrowed<Lists::kCopy>(values[0][0]);
  }
}

// NaN, once met, stays.
template <int N>
__device__ __forceinline__ float max_magnitude(float most, const float (&values)[N]) {
#pragma unroll
  for (int e = 0; e < N; ++e) most = ptx::max_nan(most, fabsf(values[e]));
  return most;
}

// Raises a parameter's amax to that of a chunk, from each lane's largest magnitude of its masters:
// rounding keeps the order of magnitudes, so the largest rounded is the rounded largest. One atomic
// a warp, for 2048 elements. As integers, whose maximum depends on no order and keeps Inf and NaN.
template <HighPrecision kCopy>
__device__ __forceinline__ void raise_amax(void* amax, float most) {
  const uint32_t bits = __reduce_max_sync(kWholeWarp, __float_as_uint(most));
  const auto copy = narrowed<kCopy>(__uint_as_float(bits));
  if (threadIdx.x % kWarp == 0) atomicMax((uint32_t*)amax, Words<kCopy>::widest(copy));
}

}  // namespace mpkernels::device

// The kernels of an update by gradient and copy, in the order of HighPrecision; none: the master
// is the parameter. MPK_UPDATE(name, grad, copy, amaxes, bytes) defines one.
#define MPK_UPDATES_OF(suffix, amaxes, bytes)                        \
  MPK_UPDATE(f32_none##suffix, kFloat32, kFloat32, amaxes, bytes)    \
  MPK_UPDATE(f32_bf16##suffix, kFloat32, kBFloat16, amaxes, bytes)   \
  MPK_UPDATE(f32_f16##suffix, kFloat32, kFloat16, amaxes, bytes)     \
  MPK_UPDATE(bf16_none##suffix, kBFloat16, kFloat32, amaxes, bytes)  \
  MPK_UPDATE(bf16_bf16##suffix, kBFloat16, kBFloat16, amaxes, bytes) \
  MPK_UPDATE(bf16_f16##suffix, kBFloat16, kFloat16, amaxes, bytes)   \
  MPK_UPDATE(f16_none##suffix, kFloat16, kFloat32, amaxes, bytes)    \
  MPK_UPDATE(f16_bf16##suffix, kFloat16, kBFloat16, amaxes, bytes)   \
  MPK_UPDATE(f16_f16##suffix, kFloat16, kFloat16, amaxes, bytes)

// For every table, without and with amaxes: those and MPK_PREPARE(suffix, amaxes, bytes).
#define MPK_UPDATES()                           \
  MPK_PREPARE(, false, kLargeParameters)        \
  MPK_PREPARE(_4k, false, kSmallParameters)     \
  MPK_PREPARE(_amax, true, kLargeParameters)    \
  MPK_PREPARE(_amax_4k, true, kSmallParameters) \
  MPK_UPDATES_OF(, false, kLargeParameters)     \
  MPK_UPDATES_OF(_4k, false, kSmallParameters)  \
  MPK_UPDATES_OF(_amax, true, kLargeParameters) \
  MPK_UPDATES_OF(_amax_4k, true, kSmallParameters)

// By amaxes, table (small, large), gradient and copy.
#define MPK_UPDATE_ENTRIES(prefix)                                                     \
  {                                                                                    \
      {MPK_UPDATE_ENTRIES_OF(prefix, _4k), MPK_UPDATE_ENTRIES_OF(prefix, )},           \
      {MPK_UPDATE_ENTRIES_OF(prefix, _amax_4k), MPK_UPDATE_ENTRIES_OF(prefix, _amax)}, \
  }
#define MPK_UPDATE_ENTRIES_OF(prefix, suffix)                                                    \
  {                                                                                              \
      {MPK_KERNEL_ENTRY(prefix##f32_none##suffix), MPK_KERNEL_ENTRY(prefix##f32_bf16##suffix),   \
       MPK_KERNEL_ENTRY(prefix##f32_f16##suffix)},                                               \
      {MPK_KERNEL_ENTRY(prefix##bf16_none##suffix), MPK_KERNEL_ENTRY(prefix##bf16_bf16##suffix), \
       MPK_KERNEL_ENTRY(prefix##bf16_f16##suffix)},                                              \
      {MPK_KERNEL_ENTRY(prefix##f16_none##suffix), MPK_KERNEL_ENTRY(prefix##f16_bf16##suffix),   \
       MPK_KERNEL_ENTRY(prefix##f16_f16##suffix)},                                               \
  }
// By amaxes and table.
#define MPK_PREPARE_ENTRIES(name)                                        \
  {                                                                      \
      {MPK_KERNEL_ENTRY(name##_4k), MPK_KERNEL_ENTRY(name)},             \
      {MPK_KERNEL_ENTRY(name##_amax_4k), MPK_KERNEL_ENTRY(name##_amax)}, \
  }
