#include <torch/csrc/stable/library.h>

#include "host/master_update.h"
#include "ops/adamw_update/adamw_update.h"

namespace mpkernels::adamw_update {
namespace {

void bind_cpu(std::vector<Tensor> masters, std::vector<Tensor> exp_avgs,
              std::vector<Tensor> exp_avg_sqs, std::vector<Tensor> steps,
              std::vector<Tensor> params, std::vector<Tensor> grads, double lr, double beta1,
              double beta2, double eps, double weight_decay, bool maximize,
              std::optional<Tensor> lr_tensor, std::optional<Tensor> inv_loss_scale,
              std::optional<Tensor> grad_norm, double max_grad_norm,
              std::optional<Tensor> found_inf, std::optional<std::vector<Tensor>> param_amaxes) {
  const Lists lists{mutable_fp32_data("masters", masters),
                    mutable_fp32_data("exp_avgs", exp_avgs),
                    mutable_fp32_data("exp_avg_sqs", exp_avg_sqs),
                    scalar_pointers("steps", steps, masters),
                    mutable_data("params", params),
                    const_data("grads", grads),
                    amax_pointers(param_amaxes, masters)};
  check_same_sizes("exp_avgs", lists.masters, lists.exp_avgs);
  check_same_sizes("exp_avg_sqs", lists.masters, lists.exp_avg_sqs);
  check_same_sizes("grads", lists.masters, lists.grads);
  if (!params.empty()) check_same_sizes("params", lists.masters, lists.params);
  if (scalar_or(0.0f, "found_inf", found_inf) != 0.0f) return;
  if (lr_tensor) lr = scalar_or(0.0f, "lr_tensor", lr_tensor);
  adamw_update_cpu(lists, {lr, beta1, beta2, eps, weight_decay},
                   gradient_factors(inv_loss_scale, grad_norm, max_grad_norm, maximize));
}

}  // namespace
}  // namespace mpkernels::adamw_update

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) {
  m.def(
      "adamw_update_(Tensor(a!)[] masters, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, Tensor(e!)[] params, Tensor[] grads, float lr, float beta1, "
      "float beta2, float eps, float weight_decay, bool maximize=False, Tensor? lr_tensor=None, "
      "Tensor? inv_loss_scale=None, Tensor? grad_norm=None, float max_grad_norm=0.0, "
      "Tensor? found_inf=None, Tensor(f!)[]? param_amaxes=None) -> ()");
}
// Not the CPU key: lists without tensors name no device.
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("adamw_update_", TORCH_BOX(&mpkernels::adamw_update::bind_cpu));
}
