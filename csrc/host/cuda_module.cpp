// The CUDA library's own operators: how it was built, what a device is like, and the recorder of
// launches (host/launch.h). Each op's binding adds its kernels to the same namespace.
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "host/launch.h"

namespace mpkernels {
namespace {

// MPK_CUDA_BUILD is set by setup.py: the nvcc release and the targets, as text.
std::string build_info() { return MPK_CUDA_BUILD; }

std::vector<int64_t> facts_of(int64_t device) {
  const DeviceFacts& facts = device_facts((int)device);
  return {facts.architecture, facts.sm_count, facts.l2_bytes, facts.shared_bytes,
          facts.parameter_bytes};
}

void record(int64_t architecture, int64_t sm_count, int64_t l2_bytes, int64_t shared_bytes,
            int64_t parameter_bytes) {
  start_recording(
      {(int)architecture, (int)sm_count, l2_bytes, (int)shared_bytes, (int)parameter_bytes});
}

}  // namespace
}  // namespace mpkernels

STABLE_TORCH_LIBRARY(mpkernels_cuda, m) {
  m.def("build_info() -> str");
  m.def("device_facts(int device) -> int[]");
  m.def(
      "start_recording(int architecture, int sm_count, int l2_bytes, int shared_bytes, "
      "int parameter_bytes) -> ()");
  m.def("stop_recording() -> str");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&mpkernels::build_info));
  m.impl("device_facts", TORCH_BOX(&mpkernels::facts_of));
  m.impl("start_recording", TORCH_BOX(&mpkernels::record));
  m.impl("stop_recording", TORCH_BOX(&mpkernels::stop_recording));
}
