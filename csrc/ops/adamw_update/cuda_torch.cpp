#include <torch/csrc/stable/library.h>

#include "host/cuda_tensor_list.h"
#include "ops/adamw_update/adamw_update_cuda.h"

namespace mpkernels::adamw_update {
namespace {

void bind_cuda(std::vector<Tensor> masters, std::vector<Tensor> exp_avgs,
               std::vector<Tensor> exp_avg_sqs, std::vector<Tensor> steps,
               std::vector<Tensor> params, std::vector<Tensor> grads, double lr, double beta1,
               double beta2, double eps, double weight_decay, bool maximize,
               std::optional<Tensor> lr_tensor, std::optional<Tensor> inv_loss_scale,
               std::optional<Tensor> grad_norm, double max_grad_norm,
               std::optional<Tensor> found_inf, std::optional<std::vector<Tensor>> param_amaxes,
               Tensor workspace) {
  if (masters.empty()) return;
  const OnDeviceOf device(masters[0]);
  UpdateTensors tensors;
  add_fp32_list(tensors, device, "masters", masters);
  add_fp32_list(tensors, device, "exp_avgs", exp_avgs);
  add_fp32_list(tensors, device, "exp_avg_sqs", exp_avg_sqs);
  add_rest(tensors, device, steps, params, grads, param_amaxes);
  const StepParams step{lr,
                        scalar_pointer(device, "lr_tensor", lr_tensor),
                        scalar_pointer(device, "inv_loss_scale", inv_loss_scale),
                        scalar_pointer(device, "grad_norm", grad_norm),
                        scalar_pointer(device, "found_inf", found_inf),
                        (float)max_grad_norm,
                        maximize};
  const Arguments arguments{
      {beta1, beta2, weight_decay}, eps, step, step_workspace(device, workspace, masters.size())};
  adamw_update_cuda(tensors, arguments, device.facts(), device.stream());
}

}  // namespace
}  // namespace mpkernels::adamw_update

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "adamw_update_(Tensor(a!)[] masters, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, Tensor(e!)[] params, Tensor[] grads, float lr, float beta1, "
      "float beta2, float eps, float weight_decay, bool maximize, Tensor? lr_tensor, "
      "Tensor? inv_loss_scale, Tensor? grad_norm, float max_grad_norm, Tensor? found_inf, "
      "Tensor(f!)[]? param_amaxes, Tensor(g!) workspace) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("adamw_update_", TORCH_BOX(&mpkernels::adamw_update::bind_cuda));
}
