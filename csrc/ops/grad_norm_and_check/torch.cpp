#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "host/tensor_list.h"
#include "ops/grad_norm_and_check/grad_norm_and_check.h"

namespace mpkernels::grad_norm_and_check {
namespace {

void bind_cpu(std::vector<Tensor> grads, const Tensor& inv_loss_scale, Tensor found_inf,
              Tensor norm) {
  check_fp32_scalar("inv_loss_scale", inv_loss_scale);
  check_fp32_scalar("found_inf", found_inf);
  check_fp32_scalar("norm", norm);
  const Result result = grad_norm_and_check_cpu(const_data("grads", grads),
                                                *(const float*)inv_loss_scale.const_data_ptr());
  *(float*)norm.mutable_data_ptr() = result.norm;
  if (result.found_inf) *(float*)found_inf.mutable_data_ptr() = 1.0f;
}

}  // namespace
}  // namespace mpkernels::grad_norm_and_check

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "grad_norm_and_check(Tensor[] grads, Tensor inv_loss_scale, Tensor(a!) found_inf, "
      "Tensor(b!) norm) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("grad_norm_and_check", TORCH_BOX(&mpkernels::grad_norm_and_check::bind_cpu));
}
