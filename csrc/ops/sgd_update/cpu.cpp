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

template <typename Grad>
MPK_INLINE float decayed_gradient(Grad grad, float master, const Coefficients& c) {
  const float g = load_gradient(grad, c.factors);
  return c.has_decay ? g + c.weight_decay * master : g;
}

template <typename Grad, typename Copy>
MPK_INLINE void update_plain_body(float* __restrict__ master, Copy* __restrict__ param,
                                  const Grad* __restrict__ grad, int64_t n, const Coefficients c) {
  for (int64_t i = 0; i < n; ++i) {
    const float p = master[i] - c.lr * decayed_gradient(grad[i], master[i], c);
    master[i] = p;
    store_copy(p, param, i);
  }
}
MPK_MULTIVERSION((template <typename Grad, typename Copy>), void, update_plain,
                 (float* master, Copy* param, const Grad* grad, int64_t n, const Coefficients& c),
                 (master, param, grad, n, c))

template <typename Grad, typename Copy>
MPK_INLINE void update_momentum_body(float* __restrict__ master, float* __restrict__ buffer,
                                     Copy* __restrict__ param, const Grad* __restrict__ grad,
                                     int64_t n, const Coefficients c) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = decayed_gradient(grad[i], master[i], c);
    const float averaged = buffer[i] * c.momentum + c.one_minus_dampening * g;
    const float b = c.is_first ? g : averaged;
    const float direction = c.nesterov ? g + c.momentum * b : b;
    const float p = master[i] - c.lr * direction;
    master[i] = p;
    buffer[i] = b;
    store_copy(p, param, i);
  }
}
MPK_MULTIVERSION((template <typename Grad, typename Copy>), void, update_momentum,
                 (float* master, float* buffer, Copy* param, const Grad* grad, int64_t n,
                  const Coefficients& c),
                 (master, buffer, param, grad, n, c))

}  // namespace

void sgd_update_cpu(const Lists& lists, const Hyperparameters& hyper, GradientFactors factors) {
  std::vector<Coefficients> of_tensor;
  of_tensor.reserve(lists.steps.size());
  for (float* step : lists.steps) {
    of_tensor.push_back(coefficients(hyper, *step, factors));
    *step += 1.0f;
  }
  for_types(lists.grads, lists.params, [&]<typename Grad, typename Copy>(Grad, Copy) {
    const ChunkedList chunks(lists.grads);
    const bool stream = chunks.numel() >= kStreamElements;
    chunks.for_each([&](const Chunk& chunk) {
      const int64_t t = chunk.tensor;
      const auto update_range = [&](int64_t begin, int64_t end, const auto* grad, auto* copy) {
        float* master = elements<float>(lists.masters[t], begin);
        if (lists.momentum_buffers.empty())
          update_plain(master, copy, grad, end - begin, of_tensor[t]);
        else
          update_momentum(master, elements<float>(lists.momentum_buffers[t], begin), copy, grad,
                          end - begin, of_tensor[t]);
      };
      for_blocks<Grad, Copy>(lists.masters, lists.params, lists.grads, chunk, stream, update_range);
    });
  });
}

}  // namespace mpkernels::sgd_update
