#include <torch/csrc/stable/library.h>

#include "host/master_update.h"
#include "ops/sgd_update/sgd_update.h"

namespace mpkernels::sgd_update {
namespace {

void bind_cpu(std::vector<Tensor> masters, std::vector<Tensor> momentum_buffers,
              std::vector<Tensor> steps, std::vector<Tensor> params, std::vector<Tensor> grads,
              double lr, double momentum, double dampening, double weight_decay, bool nesterov,
              bool maximize, std::optional<Tensor> lr_tensor, std::optional<Tensor> inv_loss_scale,
              std::optional<Tensor> grad_norm, double max_grad_norm,
              std::optional<Tensor> found_inf, std::optional<std::vector<Tensor>> param_amaxes) {
  const Lists lists{mutable_fp32_data("masters", masters),
                    mutable_fp32_data("momentum_buffers", momentum_buffers),
                    scalar_pointers("steps", steps, masters),
                    mutable_data("params", params),
                    const_data("grads", grads),
                    amax_pointers(param_amaxes, masters)};
  check_same_sizes("grads", lists.masters, lists.grads);
  if (momentum != 0.0) check_same_sizes("momentum_buffers", lists.masters, lists.momentum_buffers);
  if (!params.empty()) check_same_sizes("params", lists.masters, lists.params);
  if (scalar_or(0.0f, "found_inf", found_inf) != 0.0f) return;
  if (lr_tensor) lr = scalar_or(0.0f, "lr_tensor", lr_tensor);
  sgd_update_cpu(lists, {lr, momentum, dampening, weight_decay, nesterov},
                 gradient_factors(inv_loss_scale, grad_norm, max_grad_norm, maximize));
}

}  // namespace
}  // namespace mpkernels::sgd_update

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "sgd_update_(Tensor(a!)[] masters, Tensor(b!)[] momentum_buffers, Tensor(c!)[] steps, "
      "Tensor(d!)[] params, Tensor[] grads, float lr, float momentum, float dampening, "
      "float weight_decay, bool nesterov=False, bool maximize=False, Tensor? lr_tensor=None, "
      "Tensor? inv_loss_scale=None, Tensor? grad_norm=None, float max_grad_norm=0.0, "
      "Tensor? found_inf=None, Tensor(e!)[]? param_amaxes=None) -> ()");
}
// Not the CPU key: lists without tensors name no device.
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("sgd_update_", TORCH_BOX(&mpkernels::sgd_update::bind_cpu));
}
