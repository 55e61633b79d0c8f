// One read and one write of everything, 20 bytes a parameter with a 16-bit gradient and copy (12
// without momentum). Memory is the limit; long lists stream the copy past the caches.
#include "ops/sgd_update/sgd_update.h"
#include "simd/parallel.h"

namespace mpkernels::sgd_update {
namespace {

// The scalars of one tensor, by the names of the contract, rounded to fp32.
struct Coefficients {
  GradientFactors factors;
  float lr, momentum, one_minus_dampening, weight_decay;
  bool has_decay, nesterov;
  bool is_first;  // the momentum becomes the gradient
};

Coefficients coefficients(const Hyperparameters& hyper, float step, GradientFactors factors) {
  Coefficients c;
  c.factors = factors;
  c.lr = (float)hyper.lr;
  c.momentum = (float)hyper.momentum;
  c.one_minus_dampening = (float)(1.0 - hyper.dampening);
  c.weight_decay = (float)hyper.weight_decay;
  c.has_decay = hyper.weight_decay != 0.0;
  c.nesterov = hyper.nesterov;
  c.is_first = step == 0.0f;
  return c;
}

MPK_INLINE float decayed_gradient(float grad, float master, const Coefficients& c) {
  const float g = scaled_gradient(grad, c.factors);
  return c.has_decay ? g + c.weight_decay * master : g;
}

MPK_INLINE void update_plain_body(float* __restrict__ master, const float* __restrict__ grad,
                                  int64_t n, const Coefficients c) {
  for (int64_t i = 0; i < n; ++i)
    master[i] = master[i] - c.lr * decayed_gradient(grad[i], master[i], c);
}
MPK_MULTIVERSION((), void, update_plain,
                 (float* master, const float* grad, int64_t n, const Coefficients& c),
                 (master, grad, n, c))

MPK_INLINE void update_momentum_body(float* __restrict__ master, float* __restrict__ buffer,
                                     const float* __restrict__ grad, int64_t n,
                                     const Coefficients c) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = decayed_gradient(grad[i], master[i], c);
    const float averaged = buffer[i] * c.momentum + c.one_minus_dampening * g;
    const float b = c.is_first ? g : averaged;
    master[i] = master[i] - c.lr * (c.nesterov ? g + c.momentum * b : b);
    buffer[i] = b;
  }
}
MPK_MULTIVERSION((), void, update_momentum,
                 (float* master, float* buffer, const float* grad, int64_t n,
                  const Coefficients& c),
                 (master, buffer, grad, n, c))

}  // namespace

void sgd_update_cpu(const Lists& lists, const Hyperparameters& hyper, GradientFactors factors) {
  std::vector<Coefficients> of_tensor;
  of_tensor.reserve(lists.steps.size());
  for (float* step : lists.steps) {
    of_tensor.push_back(coefficients(hyper, *step, factors));
    *step += 1.0f;
  }
  for_master_blocks(lists.masters, lists.params, lists.grads, lists.amaxes,
                    [&](int64_t t, int64_t begin, int64_t end, const float* grad) {
                      float* master = fp32_elements(lists.masters[t], begin);
                      if (lists.momentum_buffers.empty())
                        update_plain(master, grad, end - begin, of_tensor[t]);
                      else
                        update_momentum(master, fp32_elements(lists.momentum_buffers[t], begin),
                                        grad, end - begin, of_tensor[t]);
                    });
}

}  // namespace mpkernels::sgd_update
