// One read and one write of everything, 28 bytes a parameter with a 16-bit gradient and copy. From
// DRAM the memory is the limit, and long lists stream the copy past the caches; in cache it is the
// division and the square root, of which there is one each: the bias corrections enter as factors.
#include <cmath>

#include "ops/adamw_update/adamw_update.h"
#include "simd/parallel.h"

namespace mpkernels::adamw_update {
namespace {

// The scalars of one tensor, by the names of the contract, rounded to fp32.
struct Coefficients {
  GradientFactors factors;
  float decay, step_size, inv_sqrt_bias2, eps;
  float beta2, one_minus_beta2;
  float lerp_weight;  // w, or w - 1 if the interpolation starts at g
  bool lerp_from_average;
};

// By repeated squaring, so that every backend gets the same bits; 25 bits hold 2^24, where a fp32
// step counter stops. Must match master_weights.exact_power.
double exact_power(double base, int64_t exponent) {
  double result = 1.0;
  for (int bit = 0; bit < 25; ++bit, exponent /= 2, base *= base)
    if (exponent % 2 == 1) result *= base;
  return result;
}

Coefficients coefficients(const Hyperparameters& hyper, float step, GradientFactors factors) {
  const double bias1 = 1.0 - exact_power(hyper.beta1, (int64_t)step);
  const double bias2 = 1.0 - exact_power(hyper.beta2, (int64_t)step);
  const float weight = (float)(1.0 - hyper.beta1);
  Coefficients c;
  c.factors = factors;
  c.decay = (float)(1.0 - hyper.lr * hyper.weight_decay);
  c.step_size = (float)(hyper.lr / bias1);
  c.inv_sqrt_bias2 = (float)(1.0 / std::sqrt(bias2));
  c.eps = (float)hyper.eps;
  c.beta2 = (float)hyper.beta2;
  c.one_minus_beta2 = (float)(1.0 - hyper.beta2);
  c.lerp_from_average = weight < 0.5f;
  c.lerp_weight = c.lerp_from_average ? weight : weight - 1.0f;
  return c;
}

MPK_INLINE void update_body(float* __restrict__ master, float* __restrict__ exp_avg,
                            float* __restrict__ exp_avg_sq, const float* __restrict__ grad,
                            int64_t n, const Coefficients c) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = scaled_gradient(grad[i], c.factors);
    const float m_before = exp_avg[i];
    const float m = (c.lerp_from_average ? m_before : g) + c.lerp_weight * (g - m_before);
    const float v = exp_avg_sq[i] * c.beta2 + c.one_minus_beta2 * g * g;
    const float denominator = std::sqrt(v) * c.inv_sqrt_bias2 + c.eps;
    master[i] = master[i] * c.decay - c.step_size * m / denominator;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
  }
}
MPK_MULTIVERSION((), void, update,
                 (float* master, float* exp_avg, float* exp_avg_sq, const float* grad, int64_t n,
                  const Coefficients& c),
                 (master, exp_avg, exp_avg_sq, grad, n, c))

}  // namespace

void adamw_update_cpu(const Lists& lists, const Hyperparameters& hyper, GradientFactors factors) {
  std::vector<Coefficients> of_tensor;
  of_tensor.reserve(lists.steps.size());
  for (float* step : lists.steps) {
    *step += 1.0f;
    of_tensor.push_back(coefficients(hyper, *step, factors));
  }
  for_master_blocks(
      lists.masters, lists.params, lists.grads, lists.amaxes,
      [&](int64_t t, int64_t begin, int64_t end, const float* grad) {
        update(fp32_elements(lists.masters[t], begin), fp32_elements(lists.exp_avgs[t], begin),
               fp32_elements(lists.exp_avg_sqs[t], begin), grad, end - begin, of_tensor[t]);
      });
}

}  // namespace mpkernels::adamw_update
