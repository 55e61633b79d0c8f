// The only place that launches CUDA kernels. No Torch here: .cu files include it.
//
// A thread can record instead of launching (the tests do, which have no GPU): the bindings then
// take CPU tensors, plans are made for the device facts of the recording, and each launch is
// written down with the bytes of its parameters. What the tests emulate is so exactly what would
// have run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace mpkernels {

// What plans depend on.
struct DeviceFacts {
  int architecture;  // 10 * major + minor of the compute capability: 90 for an H100
  int sm_count;
  int64_t l2_bytes;
  int shared_bytes;     // the most a block may have
  int parameter_bytes;  // the most a kernel's parameters may have: 4096, or 32764 from driver 12.1
};

// CUDA C++ Programming Guide, technical specifications: 1536 threads on consumer parts, else 2048.
inline int threads_per_sm(int architecture) {
  const int minor = architecture % 10, major = architecture / 10;
  return (major == 8 && (minor == 6 || minor == 9)) || major == 11 || major == 12 ? 1536 : 2048;
}

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
};

struct LaunchShape {
  Dim3 grid, block;
  uint32_t shared_bytes = 0;  // dynamic
  Dim3 cluster;
};

// `file` says where the kernel's PTX comes from: its name alone would not.
struct Kernel {
  const char* name;
  const char* file;
  const void* function;
  mutable std::atomic<uint64_t> large_shared{0};  // devices on which > 48 KB have been asked for
};
#define MPK_KERNEL_ENTRY(function) {#function, __FILE__, (const void*)(function)}

struct Stream {
  int device;
  void* handle;  // cudaStream_t
};

bool is_recording();
void start_recording(const DeviceFacts& facts);
// One line a launch: file kernel gx gy gz bx by bz shared cx cy cz <parameters in hex>; and a line
// `memset <address> <bytes>` for each set_zero.
std::string stop_recording();

// Of the device, or of the recording. Asked of the runtime once a device.
const DeviceFacts& device_facts(int device);

// Throws std::runtime_error, which names kernel and file, if the runtime refuses. The stream's
// device must be the current one.
void launch(const Kernel& kernel, const LaunchShape& shape, const void* params, size_t size,
            Stream stream);

template <typename Params>
void launch(const Kernel& kernel, const LaunchShape& shape, const Params& params, Stream stream) {
  static_assert(std::is_trivially_copyable_v<Params> && !std::is_pointer_v<Params>);
  launch(kernel, shape, &params, sizeof(Params), stream);
}

// `bytes` zeros in stream order: for results that kernels combine atomically.
void set_zero(void* data, size_t bytes, const char* what, Stream stream);

}  // namespace mpkernels
