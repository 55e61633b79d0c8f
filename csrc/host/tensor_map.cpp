#include "host/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "host/launch.h"

namespace mpkernels {
namespace {

using Encoder = decltype(&cuTensorMapEncodeTiled);

Encoder find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  // 12.0 is the version that brought it. The call without a version is gone from CUDA 13.
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess || function == nullptr)
    throw std::runtime_error(
        "mpkernels: this driver has no cuTensorMapEncodeTiled (CUDA 12.0 brought it)");
  return (Encoder)function;
}

CUtensorMapDataType data_type(MapElement e) {
  switch (e) {
    case MapElement::kByte:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case MapElement::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case MapElement::kBFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case MapElement::kFloat32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
  throw std::logic_error("mpkernels: no such element type of a tensor map");
}

TensorMap ask_driver(const MatrixMap& d) {
  static const Encoder encoder = find_encoder();
  alignas(128) CUtensorMap map;  // CUDA 13 declares 128, earlier releases 64
  const cuuint64_t sizes[2] = {d.columns, d.rows}, pitch[1] = {d.pitch_bytes};
  const cuuint32_t box[2] = {d.box_columns, d.box_rows}, steps[2] = {1, 1};
  const CUresult error =
      encoder(&map, data_type(d.element), 2, const_cast<void*>(d.address), sizes, pitch, box, steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error != CUDA_SUCCESS)
    throw std::runtime_error("mpkernels: the driver refuses a tensor map (error " +
                             std::to_string(error) + ") of " + std::to_string(d.rows) + " x " +
                             std::to_string(d.columns) + " elements, pitch " +
                             std::to_string(d.pitch_bytes) + " bytes, box " +
                             std::to_string(d.box_rows) + " x " + std::to_string(d.box_columns));
  return std::bit_cast<TensorMap>(map);
}

// A training step has a few hundred matrices, and the same ones in the next step.
constexpr size_t kRemembered = 512;

size_t slot_of(const MatrixMap& d) {
  uint64_t h = (uint64_t)d.address;
  for (const uint64_t word : {d.rows, d.columns, d.pitch_bytes,
                              (uint64_t)d.box_rows << 32 | d.box_columns, (uint64_t)d.element})
    h = (h ^ word) * 0x9e3779b97f4a7c15ull;  // 2^64 / golden ratio: Fibonacci hashing
  return h >> 55;
}
static_assert(kRemembered == 1u << (64 - 55));

struct Remembered {
  bool known = false;
  MatrixMap description{};
  TensorMap map;
};

}  // namespace

TensorMap encode(const MatrixMap& description) {
  if (is_recording()) return std::bit_cast<TensorMap>(description);
  static thread_local Remembered remembered[kRemembered];
  Remembered& slot = remembered[slot_of(description)];
  if (!slot.known || !(slot.description == description)) {
    slot.known = false;
    slot.map = ask_driver(description);
    slot.description = description;
    slot.known = true;
  }
  return slot.map;
}

}  // namespace mpkernels
