// adamw_update_ on a GPU: the kernels' parameters and their launcher; the plan of the launches is
// device/master_update.h's. Contract: mpkernels/ops/adamw_update/__init__.py.
#pragma once

#include "device/master_update.h"

namespace mpkernels::adamw_update {

struct Hyper {
  double beta1, beta2, weight_decay;
};
template <bool kAmaxes, int kBytes>
using Prepare = PrepareParamsOf<Hyper, kAmaxes, kBytes>;

enum List { kMasters, kExpAvgs, kExpAvgSqs, kGrads, kCopies, kParamAmaxes };

template <bool kAmaxes, int kBytes>
struct Params {
  static constexpr int kLists = kParamAmaxes + kAmaxes;
  static constexpr int kCapacity = table_capacity(kBytes, kLists, 48);
  TensorTable<kLists, kCapacity> tensors;
  const void* scalars;  // the workspace; that of the tensor in slot s is at first + s
  uint32_t first;
  float eps, beta2, one_minus_beta2;
  float lerp_weight;  // w, or w - 1 if the interpolation starts at g
  bool lerp_from_average;
};
template <bool kAmaxes, int kBytes>
constexpr bool kFits =
    sizeof(Params<kAmaxes, kBytes>) <= kBytes && sizeof(Prepare<kAmaxes, kBytes>) <= kBytes;
static_assert(kFits<false, kLargeParameters> && kFits<true, kLargeParameters>);
static_assert(kFits<false, kSmallParameters> && kFits<true, kSmallParameters>);

struct Arguments {
  Hyper hyper;
  double eps;
  StepParams step;
  void* scalars;  // workspace: tensors * kScalarBytes
};

void adamw_update_cuda(const UpdateTensors& tensors, const Arguments& arguments,
                       const DeviceFacts& facts, Stream stream);

}  // namespace mpkernels::adamw_update
