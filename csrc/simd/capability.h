// Which instruction set the CPU kernels use. Plain C++; the choice lives in host/module.cpp so that
// Python can steer it.
#pragma once

namespace mpkernels {

// Ordered: a level implies those before it. The names and the order are those of
// native.CPU_CAPABILITIES.
enum Capability : int { kDefault = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

Capability capability();

}  // namespace mpkernels
