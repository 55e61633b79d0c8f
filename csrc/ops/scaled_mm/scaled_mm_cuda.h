// scaled_mm on a GPU, as the binding sees it: the product, and what each file of kernels answers.
// Contract: mpkernels/ops/scaled_mm/__init__.py. Which file runs on which GPU: cuda_torch.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "host/launch.h"
#include "simd/formats.h"

namespace mpkernels::scaled_mm {

// Operands have K contiguous, 16-byte aligned bases, and pitches that are multiples of 16 bytes (0
// included: the rows of an expanded tensor) unless there is one row. M, N and K may be 0. `out` may
// have any alignment and any pitch >= N.
struct Product {
  const uint8_t *a, *b;      // [M, K], [N, K]; element (i, k) at i * pitch + k
  int64_t pitch_a, pitch_b;  // in bytes
  Fp8 format_a, format_b;
  int64_t m, n, k;
  const float *dequant_scale_a, *dequant_scale_b;  // in device memory
  const void* bias;                                // [N], or null
  HighPrecision bias_type;
  void* out;          // [M, N]; element (i, j) at i * out_pitch + j
  int64_t out_pitch;  // in elements
  HighPrecision out_type;
  bool accumulate, use_fast_accum;
};

struct Workspace {
  void* data;
  int64_t bytes;
};

// What a file of kernels (smXX.cu) answers in its header smXX.h, in its own namespace smXX.
struct Implementation {
  const char* name;
  // Null if it can run the product on the device, else the reason, a sentence without subject.
  const char* (*why_not)(const Product&, const DeviceFacts&);
  // The plan in words: kernel, tile, grid, what the cost function found.
  std::string (*describe)(const Product&, const DeviceFacts&);
  // Bytes of scratch memory that run() wants, aligned to 256; 0: none. Depends on sizes, types and
  // flags, not on addresses, so that cuda.py can ask once for each and pass a tensor, which the
  // emulator then sees.
  int64_t (*workspace_bytes)(const Product&, const DeviceFacts&);
  // Enqueues it. M and N are not 0. Throws if the workspace is too small.
  void (*run)(const Product&, const DeviceFacts&, Workspace, Stream);
};

}  // namespace mpkernels::scaled_mm
