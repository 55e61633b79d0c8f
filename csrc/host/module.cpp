// The CPU library's own operators: which instruction set is there and in use, and how the library
// was built. Each op's torch.cpp adds its kernel to the same namespace with
// STABLE_TORCH_LIBRARY_FRAGMENT.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <string>

#include "host/check.h"
#include "simd/capability.h"

namespace mpkernels {
namespace {

Capability detect() {
  int level = kDefault;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = kAvx2;
  if (level == kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    level = kAvx512;
  if (level == kAvx512 && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("avx512vbmi"))
    level = kAvx512Bf16;
#endif
  return (Capability)level;
}

const Capability kDetected = detect();
std::atomic<int> g_level{kDetected};

int64_t set_capability(int64_t level) {
  MPK_CHECK(level >= kDefault && level <= kDetected, "capability ", level, " is above the CPU's, ",
            (int)kDetected);
  return g_level.exchange((int)level);
}

int64_t detected_capability() { return kDetected; }
int64_t current_capability() { return capability(); }
std::string build_info() {
  return "g++ " __VERSION__ ", C++ " + std::to_string(__cplusplus / 100 % 100);
}

}  // namespace

Capability capability() { return (Capability)g_level.load(std::memory_order_relaxed); }

}  // namespace mpkernels

STABLE_TORCH_LIBRARY(mpkernels_cpu, m) {
  m.def("set_capability(int level) -> int");
  m.def("detected_capability() -> int");
  m.def("capability() -> int");
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("set_capability", TORCH_BOX(&mpkernels::set_capability));
  m.impl("detected_capability", TORCH_BOX(&mpkernels::detected_capability));
  m.impl("capability", TORCH_BOX(&mpkernels::current_capability));
  m.impl("build_info", TORCH_BOX(&mpkernels::build_info));
}
