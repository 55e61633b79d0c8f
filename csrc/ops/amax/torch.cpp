#include <torch/csrc/stable/library.h>

#include "host/check.h"
#include "host/formats.h"
#include "ops/amax/amax.h"

namespace mpkernels::amax {
namespace {

void bind_cpu(const Tensor& x, Tensor amax) {
  check_dense("x", x);
  check_fp32_scalar("amax", amax);
  *(float*)amax.mutable_data_ptr() =
      amax_cpu(x.const_data_ptr(), high_precision_of(x.scalar_type()), x.numel());
}

}  // namespace
}  // namespace mpkernels::amax

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cpu, m) { m.def("amax(Tensor x, Tensor(a!) amax) -> ()"); }
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CPU, m) {
  m.impl("amax", TORCH_BOX(&mpkernels::amax::bind_cpu));
}
