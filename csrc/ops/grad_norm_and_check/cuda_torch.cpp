#include <torch/csrc/stable/library.h>

#include "host/cuda_tensor_list.h"
#include "ops/grad_norm_and_check/grad_norm_and_check_cuda.h"

namespace mpkernels::grad_norm_and_check {
namespace {

void bind_cuda(std::vector<Tensor> grads, const Tensor& inv_loss_scale, Tensor found_inf,
               Tensor norm, Tensor sums) {
  const OnDeviceOf device(inv_loss_scale);
  device.check_fp32_scalar("inv_loss_scale", inv_loss_scale);
  device.check_fp32_scalar("found_inf", found_inf);
  device.check_fp32_scalar("norm", norm);
  device.check_dense("sums", sums);
  MPK_CHECK(sums.scalar_type() == ScalarType::Double && sums.numel() == kSums, "sums must be ",
            kSums, " float64");
  grad_norm_and_check_cuda(
      gradient_list(device, grads, false),
      {(const float*)inv_loss_scale.const_data_ptr(), (float*)found_inf.mutable_data_ptr(),
       (float*)norm.mutable_data_ptr(), (double*)sums.mutable_data_ptr()},
      device.facts(), device.stream());
}

}  // namespace
}  // namespace mpkernels::grad_norm_and_check

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "grad_norm_and_check(Tensor[] grads, Tensor inv_loss_scale, Tensor(a!) found_inf, "
      "Tensor(b!) norm, Tensor(c!) sums) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("grad_norm_and_check", TORCH_BOX(&mpkernels::grad_norm_and_check::bind_cuda));
}
