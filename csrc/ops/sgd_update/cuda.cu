// 20 bytes an element with momentum, a 16-bit gradient and copy (12 without momentum), and the
// memory is the limit. No operation is fused: results are those of the other backends to the bit.
#include "device/master_update.cuh"
#include "ops/sgd_update/sgd_update_cuda.h"

namespace mpkernels::sgd_update {
namespace {

using namespace device;

struct Own {
  float is_first;  // 1: the momentum becomes the gradient
  float unused[3];
};

template <typename P>
__device__ __forceinline__ void prepare(const P& p) {
  prepare_step<Own>(p, [&](float done) { return Own{done == 0.0f ? 1.0f : 0.0f, {}}; });
}

struct Coefficients {
  float inv_loss_scale, clip;
  float lr, momentum, one_minus_dampening, weight_decay;
  bool has_decay, nesterov, is_first;
};

template <int kStates, int N>
__device__ __forceinline__ void update_elements(float (&states)[kStates][N],
                                                const float (&gradients)[N],
                                                const Coefficients& c) {
#pragma unroll
  for (int e = 0; e < N; ++e) {
    float& master = states[0][e];
    float g = mul(mul(gradients[e], c.inv_loss_scale), c.clip);
    if (c.has_decay) g = add(g, mul(c.weight_decay, master));
    float direction = g;
    if constexpr (kStates == 2) {
      float& buffer = states[1][e];
      const float averaged = add(mul(buffer, c.momentum), mul(c.one_minus_dampening, g));
      buffer = c.is_first ? g : averaged;
      direction = c.nesterov ? add(g, mul(c.momentum, buffer)) : buffer;
    }
    master = sub(master, mul(c.lr, direction));
  }
}

template <bool kMomentum, HighPrecision kGrad, HighPrecision kCopy, bool kAmaxes, typename P>
__device__ __forceinline__ void update(const P& p) {
  for_each_chunk<kUpdateChunk>(p.tensors, [&](const Chunk& chunk) {
    const auto [step, own] = load_scalars<Own>(p.scalars, p.first + chunk.tensor);
    if (step.skip != 0.0f) return;
    const Coefficients c{step.inv_loss_scale,   step.clip,      step.lr,     p.momentum,
                         p.one_minus_dampening, p.weight_decay, p.has_decay, p.nesterov,
                         own.is_first != 0.0f};
    float most = 0.0f;
    update_chunk(UpdateLists<kMomentum ? 2 : 1, kGrad, kCopy>(p.tensors, chunk), chunk.numel,
                 [&](auto& states, const auto& gradients) {
                   update_elements(states, gradients, c);
                   if constexpr (kAmaxes) most = max_magnitude(most, states[0]);
                 });
    if constexpr (kAmaxes) raise_amax<kCopy>(p.tensors.data[P::kParamAmaxes][chunk.tensor], most);
  });
}

}  // namespace
}  // namespace mpkernels::sgd_update

#define MPK_PREPARE(suffix, amaxes, bytes)                                                      \
  extern "C" __global__ void __launch_bounds__(mpkernels::kPrepareThreads)                      \
      mpk_sgd_update_prepare##suffix(                                                           \
          const __grid_constant__ mpkernels::sgd_update::Prepare<amaxes, mpkernels::bytes> p) { \
    mpkernels::sgd_update::prepare(p);                                                          \
  }
// <gradient>_<copy>
#define MPK_UPDATE_OF(kind, name, momentum, grad, copy, amaxes, bytes)                            \
  extern "C" __global__ void __launch_bounds__(mpkernels::kUpdateThreads,                         \
                                               mpkernels::update_ctas_per_sm(amaxes))             \
      mpk_sgd_update_##kind##_##name(                                                             \
          const __grid_constant__                                                                 \
              mpkernels::sgd_update::Params<momentum, amaxes, mpkernels::bytes>                   \
                  p) {                                                                            \
    using mpkernels::HighPrecision;                                                               \
    mpkernels::sgd_update::update<momentum, HighPrecision::grad, HighPrecision::copy, amaxes>(p); \
  }
#define MPK_UPDATE(name, grad, copy, amaxes, bytes)            \
  MPK_UPDATE_OF(plain, name, false, grad, copy, amaxes, bytes) \
  MPK_UPDATE_OF(momentum, name, true, grad, copy, amaxes, bytes)
MPK_UPDATES()

namespace mpkernels::sgd_update {

static const Kernel kPrepare[][2] = MPK_PREPARE_ENTRIES(mpk_sgd_update_prepare);
// By momentum first.
static const Kernel kUpdates[][2][2][3][3] = {MPK_UPDATE_ENTRIES(mpk_sgd_update_plain_),
                                              MPK_UPDATE_ENTRIES(mpk_sgd_update_momentum_)};

template <bool kMomentum, bool kAmaxes, int kBytes>
static void launch_step(const UpdateTensors& tensors, const Arguments& a, const DeviceFacts& facts,
                        Stream stream) {
  constexpr bool kLarge = kBytes > kSmallParameters;
  Prepare<kAmaxes, kBytes> prepare{{}, a.step, a.scalars};
  launch_prepare(kPrepare[kAmaxes][kLarge], prepare, tensors, stream);
  Params<kMomentum, kAmaxes, kBytes> p{};
  p.scalars = a.scalars;
  p.momentum = (float)a.momentum;
  p.one_minus_dampening = (float)(1.0 - a.dampening);
  p.weight_decay = (float)a.weight_decay;
  p.has_decay = a.weight_decay != 0.0;
  p.nesterov = a.nesterov;
  const int grad = (int)tensors.grad_format, copy = (int)tensors.copy_format;
  launch_update(kUpdates[kMomentum][kAmaxes][kLarge][grad][copy], p, tensors, facts, stream);
}

template <bool kMomentum, bool kAmaxes>
static void launch_step(const UpdateTensors& tensors, const Arguments& arguments,
                        const DeviceFacts& facts, Stream stream) {
  constexpr int kSmallCapacity = Params<kMomentum, kAmaxes, kSmallParameters>::kCapacity;
  if (wants_large_table(tensors.numels.size(), kSmallCapacity, facts))
    launch_step<kMomentum, kAmaxes, kLargeParameters>(tensors, arguments, facts, stream);
  else
    launch_step<kMomentum, kAmaxes, kSmallParameters>(tensors, arguments, facts, stream);
}

void sgd_update_cuda(const UpdateTensors& tensors, const Arguments& arguments,
                     const DeviceFacts& facts, Stream stream) {
  const bool amaxes = !tensors.amaxes.empty();
  if (arguments.momentum != 0.0)
    (amaxes ? launch_step<true, true> : launch_step<true, false>)(tensors, arguments, facts,
                                                                  stream);
  else
    (amaxes ? launch_step<false, true> : launch_step<false, false>)(tensors, arguments, facts,
                                                                    stream);
}

}  // namespace mpkernels::sgd_update
