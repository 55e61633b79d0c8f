// sgd_update_ on a GPU: the kernels' parameters and their launcher; the plan of the launches is
// device/master_update.h's. Contract: mpkernels/ops/sgd_update/__init__.py.
#pragma once

#include "device/master_update.h"

namespace mpkernels::sgd_update {

struct Hyper {};  // nothing beyond what all steps have
template <int kBytes>
using Prepare = PrepareParams<Hyper, prepare_capacity<Hyper>(kBytes)>;

// The lists are masters, momentum buffers (if there are any), gradients, copies.
template <bool kMomentum, int kBytes>
struct Params {
  static constexpr int kLists = kMomentum ? 4 : 3;
  static constexpr int kCapacity = table_capacity(kBytes, kLists, 48);
  TensorTable<kLists, kCapacity> tensors;
  const void* scalars;  // the workspace; that of the tensor in slot s is at first + s
  uint32_t first;
  float momentum, one_minus_dampening, weight_decay;
  bool has_decay, nesterov;
};
static_assert(sizeof(Params<true, kLargeParameters>) <= kLargeParameters);
static_assert(sizeof(Params<false, kLargeParameters>) <= kLargeParameters);
static_assert(sizeof(Params<true, kSmallParameters>) <= kSmallParameters);
static_assert(sizeof(Params<false, kSmallParameters>) <= kSmallParameters);
static_assert(sizeof(Prepare<kLargeParameters>) <= kLargeParameters);
static_assert(sizeof(Prepare<kSmallParameters>) <= kSmallParameters);

struct Arguments {
  double momentum, dampening, weight_decay;
  bool nesterov;
  StepParams step;
  void* scalars;  // workspace: tensors * kScalarBytes
};

void sgd_update_cuda(const UpdateTensors& tensors, const Arguments& arguments,
                     const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::sgd_update
