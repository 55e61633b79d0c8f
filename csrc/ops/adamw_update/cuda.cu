// 28 bytes an element with a 16-bit gradient and copy, and the memory is the limit: an H100 has
// time for 4 instructions of every lane per 13 bytes. Results are those of the other backends to
// the bit: no operation is fused, the division and the square root are correctly rounded.
#include "device/master_update.cuh"
#include "device/ptx/approx.cuh"
#include "ops/adamw_update/adamw_update_cuda.h"

namespace mpkernels::adamw_update {
namespace {

using namespace device;

// By repeated squaring, least significant bit first, as master_weights.exact_power.
__device__ double exact_power(double base, uint32_t exponent) {
  double result = 1.0;
  for (; exponent != 0; exponent /= 2, base = __dmul_rn(base, base))
    if (exponent % 2 == 1) result = __dmul_rn(result, base);
  return result;
}

struct Own {
  float decay, step_size, inv_sqrt_bias2, unused;
};

template <typename P>
__device__ __forceinline__ void prepare(const P& p) {
  prepare_step<Own>(p, [&](float done) {
    const auto t = (uint32_t)add(done, 1.0f);
    const double lr = learning_rate(p.step);
    const double decay = __dsub_rn(1.0, __dmul_rn(lr, p.hyper.weight_decay));
    const double bias1 = __dsub_rn(1.0, exact_power(p.hyper.beta1, t));
    const double bias2 = __dsub_rn(1.0, exact_power(p.hyper.beta2, t));
    const double inv_sqrt_bias2 = __ddiv_rn(1.0, __dsqrt_rn(bias2));
    return Own{(float)decay, (float)__ddiv_rn(lr, bias1), (float)inv_sqrt_bias2, 0.0f};
  });
}

// The values of one chunk's elements that do not differ between them.
struct Coefficients {
  float inv_loss_scale, clip;
  float decay, step_size, inv_sqrt_bias2, eps;
  float beta2, one_minus_beta2, lerp_weight;
  bool lerp_from_average;
};

// (step_size * m) / (sqrt(v) * inv_sqrt_bias2 + eps) of N elements, every operation rounded
// correctly.
//
// sqrt.rn and div.rn are each a few instructions and a branch to the code for zeros, subnormals,
// infinities and the like. Two branches an element keep a lane's loads from being issued ahead of
// its arithmetic. So their instructions are written out (those that ptxas emits, which round
// correctly wherever nothing under- or overflows), and one branch for N elements guards them:
//   v in [2^-101, 2^40]: v - root^2, a multiple of 2^-46 v, is exact;
//   inv_sqrt_bias2 in [1, 2^30], eps <= 2^50: the denominator is in [2^-51, 2^51];
//   |step_size m| in [2^-74, 2^74]: the quotient is normal and the remainder exact.
// NaN passes, and comes out as NaN.
template <int N>
__device__ __forceinline__ void quotients(const float (&numerators)[N], const float (&v)[N],
                                          const Coefficients& c, float (&result)[N]) {
  constexpr float kLeastSquare = 0x1p-101f, kLargestSquare = 0x1p40f;
  constexpr float kLeastNumerator = 0x1p-74f, kLargestNumerator = 0x1p74f;
  float least_v = kLargestSquare, largest_v = kLeastSquare;
  float least = kLargestNumerator, largest = kLeastNumerator;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    least_v = fminf(least_v, v[e]), largest_v = fmaxf(largest_v, v[e]);
    least = fminf(least, fabsf(numerators[e])), largest = fmaxf(largest, fabsf(numerators[e]));
    const float y = ptx::rsqrt_approx(v[e]);
    const float root_estimate = mul(v[e], y), half_y = mul(y, 0.5f);
    const float root_error = __fmaf_rn(-root_estimate, root_estimate, v[e]);
    const float root = __fmaf_rn(root_error, half_y, root_estimate);
    const float denominator = add(mul(root, c.inv_sqrt_bias2), c.eps);
    const float estimate = ptx::rcp_approx(denominator);
    const float inverse = __fmaf_rn(estimate, __fmaf_rn(-denominator, estimate, 1.0f), estimate);
    const float q = mul(numerators[e], inverse);
    result[e] = __fmaf_rn(inverse, __fmaf_rn(-denominator, q, numerators[e]), q);
  }
  if (least_v >= kLeastSquare && largest_v <= kLargestSquare && least >= kLeastNumerator &&
      largest <= kLargestNumerator && c.inv_sqrt_bias2 <= 0x1p30f && c.eps <= 0x1p50f)
    return;
#pragma unroll
  for (int e = 0; e < N; ++e)
    result[e] = __fdiv_rn(numerators[e], add(mul(__fsqrt_rn(v[e]), c.inv_sqrt_bias2), c.eps));
}

template <int N>
__device__ __forceinline__ void update_elements(float (&states)[3][N], const float (&gradients)[N],
                                                const Coefficients& c) {
  float (&masters)[N] = states[0], (&averages)[N] = states[1], (&squares)[N] = states[2];
  float numerators[N], updates[N];
#pragma unroll
  for (int e = 0; e < N; ++e) {
    const float g = mul(mul(gradients[e], c.inv_loss_scale), c.clip);
    const float start = c.lerp_from_average ? averages[e] : g;
    averages[e] = add(start, mul(c.lerp_weight, sub(g, averages[e])));
    squares[e] = add(mul(squares[e], c.beta2), mul(mul(c.one_minus_beta2, g), g));
    numerators[e] = mul(c.step_size, averages[e]);
  }
  quotients(numerators, squares, c, updates);
#pragma unroll
  for (int e = 0; e < N; ++e) masters[e] = sub(mul(masters[e], c.decay), updates[e]);
}

template <HighPrecision kGrad, HighPrecision kCopy, bool kAmaxes, typename P>
__device__ __forceinline__ void update(const P& p) {
  for_each_chunk<kUpdateChunk>(p.tensors, [&](const Chunk& chunk) {
    const auto [step, own] = load_scalars<Own>(p.scalars, p.first + chunk.tensor);
    if (step.skip != 0.0f) return;
    const Coefficients c{step.inv_loss_scale,
                         step.clip,
                         own.decay,
                         own.step_size,
                         own.inv_sqrt_bias2,
                         p.eps,
                         p.beta2,
                         p.one_minus_beta2,
                         p.lerp_weight,
                         p.lerp_from_average};
    float most = 0.0f;
    update_chunk(UpdateLists<3, kGrad, kCopy>(p.tensors, chunk), chunk.numel,
                 [&](auto& states, const auto& gradients) {
                   update_elements(states, gradients, c);
                   if constexpr (kAmaxes) most = max_magnitude(most, states[kMasters]);
                 });
    if constexpr (kAmaxes) raise_amax<kCopy>(p.tensors.data[kParamAmaxes][chunk.tensor], most);
  });
}

}  // namespace
}  // namespace mpkernels::adamw_update

#define MPK_PREPARE(suffix, amaxes, bytes)                                                        \
  extern "C" __global__ void __launch_bounds__(mpkernels::kPrepareThreads)                        \
      mpk_adamw_update_prepare##suffix(                                                           \
          const __grid_constant__ mpkernels::adamw_update::Prepare<amaxes, mpkernels::bytes> p) { \
    mpkernels::adamw_update::prepare(p);                                                          \
  }
// <gradient>_<copy>
#define MPK_UPDATE(name, grad, copy, amaxes, bytes)                                              \
  extern "C" __global__ void __launch_bounds__(mpkernels::kUpdateThreads,                        \
                                               mpkernels::update_ctas_per_sm(amaxes))            \
      mpk_adamw_update_##name(                                                                   \
          const __grid_constant__ mpkernels::adamw_update::Params<amaxes, mpkernels::bytes> p) { \
    using mpkernels::HighPrecision;                                                              \
    mpkernels::adamw_update::update<HighPrecision::grad, HighPrecision::copy, amaxes>(p);        \
  }
MPK_UPDATES()

namespace mpkernels::adamw_update {

static const Kernel kPrepare[][2] = MPK_PREPARE_ENTRIES(mpk_adamw_update_prepare);
static const Kernel kUpdates[][2][3][3] = MPK_UPDATE_ENTRIES(mpk_adamw_update_);

template <bool kAmaxes, int kBytes>
static void launch_step(const UpdateTensors& tensors, const Arguments& a, const DeviceFacts& facts,
                        Stream stream) {
  constexpr bool kLarge = kBytes > kSmallParameters;
  Prepare<kAmaxes, kBytes> prepare{a.hyper, a.step, a.scalars};
  launch_prepare(kPrepare[kAmaxes][kLarge], prepare, tensors, stream);
  Params<kAmaxes, kBytes> p{};
  p.scalars = a.scalars;
  p.eps = (float)a.eps;
  p.beta2 = (float)a.hyper.beta2;
  p.one_minus_beta2 = (float)(1.0 - a.hyper.beta2);
  const float weight = (float)(1.0 - a.hyper.beta1);
  p.lerp_from_average = weight < 0.5f;
  p.lerp_weight = p.lerp_from_average ? weight : weight - 1.0f;
  const int grad = (int)tensors.grad_format, copy = (int)tensors.copy_format;
  launch_update(kUpdates[kAmaxes][kLarge][grad][copy], p, tensors, facts, stream);
}

template <bool kAmaxes>
static void launch_step(const UpdateTensors& tensors, const Arguments& arguments,
                        const DeviceFacts& facts, Stream stream) {
  constexpr int kSmallCapacity = Params<kAmaxes, kSmallParameters>::kCapacity;
  if (wants_large_table(tensors.numels.size(), kSmallCapacity, facts))
    launch_step<kAmaxes, kLargeParameters>(tensors, arguments, facts, stream);
  else
    launch_step<kAmaxes, kSmallParameters>(tensors, arguments, facts, stream);
}

void adamw_update_cuda(const UpdateTensors& tensors, const Arguments& arguments,
                       const DeviceFacts& facts, Stream stream) {
  if (tensors.amaxes.empty())
    launch_step<false>(tensors, arguments, facts, stream);
  else
    launch_step<true>(tensors, arguments, facts, stream);
}

}  // namespace mpkernels::adamw_update
