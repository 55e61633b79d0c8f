// The dtypes that kernels take, without Torch. host/formats.h maps Torch's onto them.
#pragma once

namespace mpkernels {

enum class HighPrecision { kFloat32, kBFloat16, kFloat16 };
enum class Fp8 { kE4M3, kE5M2 };

}  // namespace mpkernels
