#include <torch/csrc/stable/library.h>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/amax/amax_cuda.h"

namespace mpkernels::amax {
namespace {

void bind_cuda(const Tensor& x, Tensor amax) {
  const OnDeviceOf device(x);
  device.check_fp32_scalar("amax", amax);
  amax_cuda(rows_of("x", x), high_precision_of(x.scalar_type()), (float*)amax.mutable_data_ptr(),
            device.facts(), device.stream());
}

}  // namespace
}  // namespace mpkernels::amax

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) { m.def("amax(Tensor x, Tensor(a!) amax) -> ()"); }
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("amax", TORCH_BOX(&mpkernels::amax::bind_cuda));
}
