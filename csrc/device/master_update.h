// What adamw_update_ and sgd_update_ share between their launchers and their kernels.
//
// A step is a small kernel and a large one. The small one, `prepare`, reads the scalars of the step
// and the step counters, works out what they come to for each tensor (in FP64, which a consumer GPU
// has little of), advances the counters, and leaves the results in a workspace; the large one goes
// over the elements. One kernel alone could not advance a counter that its CTAs still read.
#pragma once

#include <vector>

#include "device/tensor_table.h"
#include "simd/formats.h"

namespace mpkernels {

constexpr int kUpdateThreads = 256;
// The kernels keep to 65536 / (4 * 256) = 64 registers. One more, for an amax, and AdamW's would
// spill on sm_80: those have 80, and 3 CTAs with 84 KB in flight are still several times what hides
// DRAM.
constexpr int update_ctas_per_sm(bool amaxes) { return amaxes ? 3 : 4; }
// 459 KB at 28 bytes an element: about 20 us of an SM's share of the bandwidth, against about one
// for finding the tensor and its scalars; small enough that a list of 100 M elements still gives
// every CTA a dozen chunks.
constexpr int kUpdateChunk = 16384;
constexpr int kPrepareThreads = 128;

// The scalars of a step, where they are on the device. Null: absent.
struct StepParams {
  double lr;
  const float* lr_tensor;  // replaces lr
  const float* inv_loss_scale;
  const float* grad_norm;
  const float* found_inf;
  float max_grad_norm;
  bool maximize;
};

// Bytes of the workspace for each tensor.
constexpr int kScalarBytes = 32;

// The parameters of `prepare`: Hyper is the op's. `scalars` is the workspace.
template <typename Hyper, bool kAmaxes_, int kCapacity_>
struct PrepareParams {
  static constexpr bool kAmaxes = kAmaxes_;
  static constexpr int kCapacity = kCapacity_;
  Hyper hyper;
  StepParams step;
  void* scalars;
  uint32_t first;  // the tensor of slot 0
  uint32_t count;
  float* of_tensor[1 + kAmaxes][kCapacity];  // step counters; amaxes of the parameters
};

template <typename Hyper, bool kAmaxes>
constexpr int prepare_capacity(int bytes) {
  constexpr int kEach = (1 + kAmaxes) * (int)sizeof(float*);
  return (bytes - (int)sizeof(PrepareParams<Hyper, kAmaxes, 1>)) / kEach + 1;
}

template <typename Hyper, bool kAmaxes, int kBytes>
using PrepareParamsOf = PrepareParams<Hyper, kAmaxes, prepare_capacity<Hyper, kAmaxes>(kBytes)>;

// The tensors of a step. Lists are in the order of the op's table, which has gradients, copies and,
// if they are wanted, amaxes last; a copy's format is FP32 if there are none.
struct UpdateTensors {
  std::vector<int64_t> numels;
  std::vector<std::vector<void*>> lists;
  std::vector<float*> steps, amaxes;
  HighPrecision grad_format, copy_format;

  void* data(size_t list, size_t tensor) const {
    if (list == lists.size()) return amaxes[tensor];
    return lists[list].empty() ? nullptr : lists[list][tensor];
  }
};

struct UpdateLaunch {
  TableSpan span;
  LaunchShape shape;
};

// The launches of `prepare`: steps [span.first, span.first + span.count).
inline std::vector<UpdateLaunch> plan_prepare(size_t tensors, size_t capacity) {
  std::vector<UpdateLaunch> launches;
  for (size_t first = 0; first < tensors; first += capacity) {
    const size_t count = std::min(capacity, tensors - first);
    const auto ctas = (uint32_t)((count + kPrepareThreads - 1) / kPrepareThreads);
    launches.push_back({{first, count, 0}, {{ctas}, {kPrepareThreads}}});
  }
  return launches;
}

inline std::vector<UpdateLaunch> plan_update(const std::vector<int64_t>& numels, size_t capacity,
                                             bool amaxes, const DeviceFacts& facts) {
  const int ctas = update_ctas_per_sm(amaxes);
  std::vector<UpdateLaunch> launches;
  for (const TableSpan& span : plan_tables(numels, kUpdateChunk, capacity))
    launches.push_back({span, persistent(span.chunks, kUpdateThreads, ctas, facts)});
  return launches;
}

// `p` has everything but the tensors.
template <typename Params>
void launch_prepare(const Kernel& kernel, Params& p, const UpdateTensors& tensors, Stream stream) {
  for (const auto& [span, shape] : plan_prepare(tensors.steps.size(), Params::kCapacity)) {
    p.first = (uint32_t)span.first, p.count = (uint32_t)span.count;
    std::copy_n(tensors.steps.begin() + span.first, span.count, p.of_tensor[0]);
    if constexpr (Params::kAmaxes)
      std::copy_n(tensors.amaxes.begin() + span.first, span.count, p.of_tensor[1]);
    launch(kernel, shape, p, stream);
  }
}

// `p` has everything but the table.
template <typename Params>
void launch_update(const Kernel& kernel, Params& p, const UpdateTensors& tensors,
                   const DeviceFacts& facts, Stream stream) {
  const bool amaxes = !tensors.amaxes.empty();
  for (const auto& [span, shape] : plan_update(tensors.numels, Params::kCapacity, amaxes, facts)) {
    fill_table(p.tensors, tensors.numels, kUpdateChunk, span,
               [&](int list, size_t t) { return tensors.data(list, t); });
    p.first = (uint32_t)span.first;
    launch(kernel, shape, p, stream);
  }
}

}  // namespace mpkernels
