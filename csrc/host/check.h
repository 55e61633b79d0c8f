// Guards of the binding layer. The Python contract has already checked everything a user can get
// wrong; these catch a backend module that breaks its own promise, before a raw pointer is made.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace mpkernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define MPK_CHECK(condition, ...) STD_TORCH_CHECK(condition, "mpkernels: ", __VA_ARGS__)

inline void check_cpu(const char* name, const Tensor& t) {
  MPK_CHECK(t.is_cpu(), name, " must be on the CPU");
}

inline void check_dense(const char* name, const Tensor& t) {
  MPK_CHECK(t.is_cpu() && t.is_contiguous(), name, " must be a contiguous CPU tensor");
}

inline void check_fp32_scalar(const char* name, const Tensor& t) {
  MPK_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float && t.numel() == 1, name,
            " must be one float32 on the CPU");
}

}  // namespace mpkernels
