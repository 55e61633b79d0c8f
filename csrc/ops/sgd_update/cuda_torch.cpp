#include <torch/csrc/stable/library.h>

#include "host/cuda_tensor_list.h"
#include "ops/sgd_update/sgd_update_cuda.h"

namespace mpkernels::sgd_update {
namespace {

void bind_cuda(std::vector<Tensor> masters, std::vector<Tensor> momentum_buffers,
               std::vector<Tensor> steps, std::vector<Tensor> params, std::vector<Tensor> grads,
               double lr, double momentum, double dampening, double weight_decay, bool nesterov,
               bool maximize, std::optional<Tensor> lr_tensor, std::optional<Tensor> inv_loss_scale,
               std::optional<Tensor> grad_norm, double max_grad_norm,
               std::optional<Tensor> found_inf, std::optional<std::vector<Tensor>> param_amaxes,
               Tensor workspace) {
  if (masters.empty()) return;
  const OnDeviceOf device(masters[0]);
  UpdateTensors tensors;
  add_fp32_list(tensors, device, "masters", masters);
  if (momentum != 0.0) add_fp32_list(tensors, device, "momentum_buffers", momentum_buffers);
  add_rest(tensors, device, steps, params, grads, param_amaxes);
  const StepParams step{lr,
                        scalar_pointer(device, "lr_tensor", lr_tensor),
                        scalar_pointer(device, "inv_loss_scale", inv_loss_scale),
                        scalar_pointer(device, "grad_norm", grad_norm),
                        scalar_pointer(device, "found_inf", found_inf),
                        (float)max_grad_norm,
                        maximize};
  const Arguments arguments{momentum, dampening, weight_decay,
                            nesterov, step,      step_workspace(device, workspace, masters.size())};
  sgd_update_cuda(tensors, arguments, device.facts(), device.stream());
}

}  // namespace
}  // namespace mpkernels::sgd_update

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "sgd_update_(Tensor(a!)[] masters, Tensor(b!)[] momentum_buffers, Tensor(c!)[] steps, "
      "Tensor(d!)[] params, Tensor[] grads, float lr, float momentum, float dampening, "
      "float weight_decay, bool nesterov, bool maximize, Tensor? lr_tensor, "
      "Tensor? inv_loss_scale, Tensor? grad_norm, float max_grad_norm, Tensor? found_inf, "
      "Tensor(e!)[]? param_amaxes, Tensor(f!) workspace) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("sgd_update_", TORCH_BOX(&mpkernels::sgd_update::bind_cuda));
}
