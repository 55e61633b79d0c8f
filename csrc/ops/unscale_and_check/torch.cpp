#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "host/tensor_list.h"
#include "ops/unscale_and_check/unscale_and_check.h"

namespace mpkernels::unscale_and_check {
namespace {

void bind_cpu(std::vector<Tensor> grads, const Tensor& inv_loss_scale, Tensor found_inf) {
  check_fp32_scalar("inv_loss_scale", inv_loss_scale);
  check_fp32_scalar("found_inf", found_inf);
  const float factor = *(const float*)inv_loss_scale.const_data_ptr();
  if (unscale_and_check_cpu(mutable_data("grads", grads), factor))
    *(float*)found_inf.mutable_data_ptr() = 1.0f;
}

}  // namespace
}  // namespace mpkernels::unscale_and_check

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def("unscale_and_check(Tensor(a!)[] grads, Tensor inv_loss_scale, Tensor(b!) found_inf) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("unscale_and_check", TORCH_BOX(&mpkernels::unscale_and_check::bind_cpu));
}
