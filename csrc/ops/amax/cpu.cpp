// One read of x.
#include "ops/amax/amax.h"
#include "simd/magnitude.h"
#include "simd/parallel.h"

namespace mpkernels::amax {
namespace {

template <typename In>
float run(const void* x, int64_t numel) {
  const uint32_t bits = parallel_max(numel, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    return max_magnitude((const In*)x + begin, end - begin);
  });
  return from_magnitude(In{}, bits);
}

}  // namespace

float amax_cpu(const void* x, HighPrecision dtype, int64_t numel) {
  switch (dtype) {
    case HighPrecision::kFloat32:
      return run<float>(x, numel);
    case HighPrecision::kBFloat16:
      return run<BFloat16>(x, numel);
    default:
      return run<Half>(x, numel);
  }
}

}  // namespace mpkernels::amax
