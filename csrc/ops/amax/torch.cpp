#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "ops/amax/amax.h"

namespace mpkernels::amax {
namespace {

Input input_of(ScalarType dtype) {
  if (dtype == ScalarType::Float) return Input::kFloat32;
  if (dtype == ScalarType::BFloat16) return Input::kBFloat16;
  MPK_CHECK(dtype == ScalarType::Half, "amax: unsupported dtype of x");
  return Input::kFloat16;
}

void bind_cpu(const Tensor& x, Tensor amax) {
  check_dense("x", x);
  check_fp32_scalar("amax", amax);
  *(float*)amax.mutable_data_ptr() =
      amax_cpu(x.const_data_ptr(), input_of(x.scalar_type()), x.numel());
}

}  // namespace
}  // namespace mpkernels::amax

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) { m.def("amax(Tensor x, Tensor(a!) amax) -> ()"); }
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("amax", TORCH_BOX(&mpkernels::amax::bind_cpu));
}
