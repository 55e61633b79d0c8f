#include <torch/csrc/stable/library.h>

#include "host/cuda_tensor_list.h"
#include "ops/unscale_and_check/unscale_and_check_cuda.h"

namespace mpkernels::unscale_and_check {
namespace {

void bind_cuda(std::vector<Tensor> grads, const Tensor& inv_loss_scale, Tensor found_inf) {
  const OnDeviceOf device(inv_loss_scale);
  device.check_fp32_scalar("inv_loss_scale", inv_loss_scale);
  device.check_fp32_scalar("found_inf", found_inf);
  unscale_and_check_cuda(gradient_list(device, grads, true),
                         (const float*)inv_loss_scale.const_data_ptr(),
                         (float*)found_inf.mutable_data_ptr(), device.facts(), device.stream());
}

}  // namespace
}  // namespace mpkernels::unscale_and_check

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def("unscale_and_check(Tensor(a!)[] grads, Tensor inv_loss_scale, Tensor(b!) found_inf) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("unscale_and_check", TORCH_BOX(&mpkernels::unscale_and_check::bind_cuda));
}
