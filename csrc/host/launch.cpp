#include "host/launch.h"

#include <cuda_runtime_api.h>

#include <array>
#include <charconv>
#include <iterator>
#include <mutex>
#include <stdexcept>

namespace mpkernels {
namespace {

constexpr int kMostDevices = 64;
// A kernel gets this much dynamic shared memory without asking.
constexpr uint32_t kSharedWithoutOptIn = 48 << 10;

struct Recording {
  bool on = false;
  DeviceFacts facts{};
  std::string text;
};
thread_local Recording t_recording;

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // so that the next call does not report it again
  throw std::runtime_error("mpkernels: " + what + ": " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "facts of device " + std::to_string(device));
  return value;
}

DeviceFacts ask_runtime(int device) {
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "driver version");
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
          attribute(cudaDevAttrComputeCapabilityMinor, device),
      attribute(cudaDevAttrMultiProcessorCount, device), attribute(cudaDevAttrL2CacheSize, device),
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), driver >= 12010 ? 32764 : 4096};
}

// In one place and without temporaries: benchmarks/scaled_mm_host.py records what it measures.
void write_down(const Kernel& kernel, const LaunchShape& shape, const void* params, size_t size) {
  static const char digits[] = "0123456789abcdef";
  std::string& text = t_recording.text;
  text.append(kernel.file).append(1, ' ').append(kernel.name);
  for (const uint32_t n :
       {shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.block.y, shape.block.z,
        shape.shared_bytes, shape.cluster.x, shape.cluster.y, shape.cluster.z}) {
    char decimal[12] = {' '};
    text.append(decimal, std::to_chars(decimal + 1, std::end(decimal), n).ptr);
  }
  text += ' ';
  char* to = &*text.insert(text.end(), 2 * size + 1, '\n');
  for (size_t i = 0; i < size; ++i) {
    const auto byte = ((const unsigned char*)params)[i];
    *to++ = digits[byte >> 4];
    *to++ = digits[byte & 15];
  }
}

void allow_large_shared(const Kernel& kernel, uint32_t bytes, int device) {
  const uint64_t bit = 1ull << (device % kMostDevices);
  if (bytes <= kSharedWithoutOptIn || kernel.large_shared.load(std::memory_order_relaxed) & bit)
    return;
  const int most = device_facts(device).shared_bytes;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel.function), kernel.name);
  check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             most - (int)attributes.sharedSizeBytes),
        std::string(kernel.name) + ", shared memory");
  kernel.large_shared.fetch_or(bit, std::memory_order_relaxed);
}

}  // namespace

bool is_recording() { return t_recording.on; }

void start_recording(const DeviceFacts& facts) { t_recording = {true, facts, {}}; }

std::string stop_recording() {
  std::string text = std::move(t_recording.text);
  t_recording = {};
  return text;
}

const DeviceFacts& device_facts(int device) {
  static std::array<DeviceFacts, kMostDevices> facts;
  static std::array<std::once_flag, kMostDevices> known;
  if (t_recording.on) return t_recording.facts;
  std::call_once(known.at(device), [&] { facts[device] = ask_runtime(device); });
  return facts[device];
}

void launch(const Kernel& kernel, const LaunchShape& shape, const void* params, size_t size,
            Stream stream) {
  if (t_recording.on) {
    write_down(kernel, shape, params, size);
    return;
  }
  const Dim3 &grid = shape.grid, &block = shape.block, &cluster = shape.cluster;
  allow_large_shared(kernel, shape.shared_bytes, stream.device);
  cudaLaunchAttribute attributes[1];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {cluster.x, cluster.y, cluster.z};
  cudaLaunchConfig_t config{};
  config.gridDim = {grid.x, grid.y, grid.z};
  config.blockDim = {block.x, block.y, block.z};
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = (cudaStream_t)stream.handle;
  config.attrs = attributes;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 1 : 0;
  void* arguments[] = {const_cast<void*>(params)};
  check(cudaLaunchKernelExC(&config, kernel.function, arguments),
        std::string("kernel ") + kernel.name + " of " + kernel.file);
}

void set_zero(void* data, size_t bytes, const char* what, Stream stream) {
  if (t_recording.on) {
    t_recording.text +=
        "memset " + std::to_string((uintptr_t)data) + ' ' + std::to_string(bytes) + '\n';
    return;
  }
  check(cudaMemsetAsync(data, 0, bytes, (cudaStream_t)stream.handle),
        std::string("zeros for ") + what);
}

}  // namespace mpkernels
