// The CUDA library's own operators. Kernels add themselves to the same namespace as they land.
#include <torch/csrc/stable/library.h>

#include <string>

// MPK_CUDA_BUILD is set by setup.py: the nvcc release and the targets, as text.
static std::string build_info() { return MPK_CUDA_BUILD; }

STABLE_TORCH_LIBRARY(mpkernels_cuda, m) { m.def("build_info() -> str"); }
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
}
