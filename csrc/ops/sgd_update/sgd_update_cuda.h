// sgd_update_ on a GPU: the kernels' parameters and their launcher; the plan of the launches is
// device/master_update.h's. Contract: mpkernels/ops/sgd_update/__init__.py.
#pragma once

#include "device/master_update.h"

namespace mpkernels::sgd_update {

struct Hyper {};  // nothing beyond what all steps have
template <bool kAmaxes, int kBytes>
using Prepare = PrepareParamsOf<Hyper, kAmaxes, kBytes>;

// The lists are masters, momentum buffers (if there are any), gradients, copies, amaxes (likewise).
template <bool kMomentum, bool kAmaxes, int kBytes>
struct Params {
  static constexpr int kParamAmaxes = kMomentum ? 4 : 3;
  static constexpr int kLists = kParamAmaxes + kAmaxes;
  static constexpr int kCapacity = table_capacity(kBytes, kLists, 48);
  TensorTable<kLists, kCapacity> tensors;
  const void* scalars;  // the workspace; that of the tensor in slot s is at first + s
  uint32_t first;
  float momentum, one_minus_dampening, weight_decay;
  bool has_decay, nesterov;
};
template <bool kMomentum, bool kAmaxes, int kBytes>
constexpr bool kFits = sizeof(Params<kMomentum, kAmaxes, kBytes>) <= kBytes &&
                       sizeof(Prepare<kAmaxes, kBytes>) <= kBytes;
static_assert(kFits<false, false, kLargeParameters> && kFits<false, true, kLargeParameters>);
static_assert(kFits<true, false, kLargeParameters> && kFits<true, true, kLargeParameters>);
static_assert(kFits<false, false, kSmallParameters> && kFits<false, true, kSmallParameters>);
static_assert(kFits<true, false, kSmallParameters> && kFits<true, true, kSmallParameters>);

struct Arguments {
  double momentum, dampening, weight_decay;
  bool nesterov;
  StepParams step;
  void* scalars;  // workspace: tensors * kScalarBytes
};

void sgd_update_cuda(const UpdateTensors& tensors, const Arguments& arguments,
                     const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::sgd_update
