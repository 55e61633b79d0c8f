// What the CUDA bindings start with: where to launch, and checks of what they are given.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "host/check.h"
#include "host/launch.h"

// In libtorch_cuda. Weak, so that this library loads on a CPU build of torch too.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace mpkernels {

// Makes the device of `tensor` current for its own lifetime. While recording it stands for a device
// that is not there, and tensors are on the CPU.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& tensor) : cuda_(!is_recording()) {
    MPK_CHECK(tensor.is_cuda() == cuda_, "expected a tensor on a CUDA device");
    if (!cuda_) return;
    stream_.device = tensor.get_device_index();
    guard_.emplace(stream_.device);
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(stream_.device, &stream_.handle));
  }

  Stream stream() const { return stream_; }
  const DeviceFacts& facts() const { return device_facts(stream_.device); }

  void check(const char* name, const Tensor& t) const {
    MPK_CHECK(t.is_cuda() == cuda_ && (!cuda_ || t.get_device_index() == stream_.device), name,
              " must be on the same CUDA device as the others");
  }
  void check_dense(const char* name, const Tensor& t) const {
    check(name, t);
    MPK_CHECK(t.is_contiguous(), name, " must be contiguous");
  }
  void check_fp32_scalar(const char* name, const Tensor& t) const {
    check(name, t);
    MPK_CHECK(t.scalar_type() == ScalarType::Float && t.numel() == 1, name, " must be one float32");
  }

 private:
  bool cuda_;
  Stream stream_{0, nullptr};
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

}  // namespace mpkernels
