// Lists of Torch tensors on a CUDA device as what launchers take.
#pragma once

#include <optional>
#include <vector>

#include "device/gradients.h"
#include "device/master_update.h"
#include "host/cuda_binding.h"
#include "host/formats.h"

namespace mpkernels {

inline GradientList gradient_list(const OnDeviceOf& device, const std::vector<Tensor>& grads,
                                  bool written) {
  GradientList list;
  for (const Tensor& grad : grads) {
    device.check_dense("grads", grad);
    list.numels.push_back(grad.numel());
    list.data.push_back(written ? grad.mutable_data_ptr() : (void*)grad.const_data_ptr());
    list.formats.push_back(high_precision_of(grad.scalar_type()));
  }
  return list;
}

// Adds a list that kernels index by the masters' elements, the first of them the masters.
inline void add_list(UpdateTensors& tensors, const OnDeviceOf& device, const char* name,
                     const std::vector<Tensor>& list, bool written = true) {
  const bool are_masters = tensors.lists.empty();
  MPK_CHECK(are_masters || list.size() == tensors.numels.size(), name,
            " must hold one tensor per master");
  std::vector<void*> data;
  data.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Tensor& tensor = list[i];
    device.check_dense(name, tensor);
    if (are_masters) tensors.numels.push_back(tensor.numel());
    MPK_CHECK(tensor.numel() == tensors.numels[i] && tensor.scalar_type() == list[0].scalar_type(),
              name, " must have the sizes of the masters and one dtype");
    data.push_back(written ? tensor.mutable_data_ptr() : (void*)tensor.const_data_ptr());
  }
  tensors.lists.push_back(std::move(data));
}

inline void add_fp32_list(UpdateTensors& tensors, const OnDeviceOf& device, const char* name,
                          const std::vector<Tensor>& list) {
  MPK_CHECK(list.empty() || list[0].scalar_type() == ScalarType::Float, name, " must be float32");
  add_list(tensors, device, name, list);
}

// One scalar for each master.
inline std::vector<float*> scalar_pointers(const OnDeviceOf& device, const char* name,
                                           const std::vector<Tensor>& scalars, size_t masters) {
  MPK_CHECK(scalars.size() == masters, name, " must hold one tensor per master");
  std::vector<float*> pointers;
  pointers.reserve(scalars.size());
  for (const Tensor& scalar : scalars) {
    device.check_fp32_scalar(name, scalar);
    pointers.push_back((float*)scalar.mutable_data_ptr());
  }
  return pointers;
}

// The last lists of a step.
inline void add_rest(UpdateTensors& tensors, const OnDeviceOf& device,
                     const std::vector<Tensor>& steps, const std::vector<Tensor>& params,
                     const std::vector<Tensor>& grads,
                     const std::optional<std::vector<Tensor>>& param_amaxes) {
  add_list(tensors, device, "grads", grads, false);
  tensors.grad_format = high_precision_of(grads[0].scalar_type());
  tensors.copy_format = HighPrecision::kFloat32;
  if (params.empty()) {
    tensors.lists.emplace_back();
  } else {
    add_list(tensors, device, "params", params);
    tensors.copy_format = high_precision_of(params[0].scalar_type());
  }
  const size_t masters = tensors.numels.size();
  tensors.steps = scalar_pointers(device, "steps", steps, masters);
  if (param_amaxes)
    tensors.amaxes = scalar_pointers(device, "param_amaxes", *param_amaxes, masters);
}

inline const float* scalar_pointer(const OnDeviceOf& device, const char* name,
                                   const std::optional<Tensor>& scalar) {
  if (!scalar) return nullptr;
  device.check_fp32_scalar(name, *scalar);
  return (const float*)scalar->const_data_ptr();
}

// The workspace of `tensors` tensors.
inline void* step_workspace(const OnDeviceOf& device, const Tensor& workspace, size_t tensors) {
  device.check_dense("workspace", workspace);
  MPK_CHECK(workspace.scalar_type() == ScalarType::Float &&
                workspace.numel() * (int64_t)sizeof(float) >= (int64_t)tensors * kScalarBytes &&
                (uintptr_t)workspace.const_data_ptr() % kScalarBytes == 0,
            "workspace must hold 8 float32 for each tensor, aligned to 32 bytes");
  return workspace.mutable_data_ptr();
}

}  // namespace mpkernels
