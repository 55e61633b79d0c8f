// One deliberate mistake for each kind of finding.
#include <cstdint>

extern "C" __global__ void out_of_bounds(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = x[i];  // should be i < n
}

extern "C" __global__ void misaligned(const char* x, float4* y) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + threadIdx.x * 20);
}

extern "C" __global__ void uninitialised(float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 32) tile[threadIdx.x] = 1.0f;  // the other half is never written
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void write_after_read(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float other = tile[63 - threadIdx.x];
  tile[threadIdx.x] = other * 2.0f;  // the other warp may not have read yet
  y[threadIdx.x] = other;
}

extern "C" __global__ void same_place(float* y) {
  __shared__ float one;
  one = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = one;
}

extern "C" __global__ void divergent_barrier(float* y, int n) {
  if (threadIdx.x < n) {
    asm volatile("bar.sync 1, 64;");
    y[threadIdx.x] = 1.0f;
  }
}

__device__ __forceinline__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from));
  asm volatile("cp.async.commit_group;");
}

extern "C" __global__ void missing_wait(const float4* x, float4* y) {
  __shared__ float4 tile[64];
  copy16(&tile[threadIdx.x], x + threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
  asm volatile("cp.async.wait_all;");
}

extern "C" __global__ void never_waited(const float4* x) {
  __shared__ float4 tile[64];
  copy16(&tile[threadIdx.x], x + threadIdx.x);
}

extern "C" __global__ void partial_warp(float* y) {
  uint32_t r;
  __shared__ __align__(16) uint32_t tile[128];
  tile[threadIdx.x] = threadIdx.x;
  __syncthreads();
  if (threadIdx.x % 32 < 24)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r)
                 : "r"(uint32_t(__cvta_generic_to_shared(&tile[threadIdx.x % 8 * 4]))));
  y[threadIdx.x] = r;
}

extern "C" __global__ void global_race(float* y) {
  y[threadIdx.x] = float(blockIdx.x);  // every CTA writes the same places
}

extern "C" __global__ void global_race_read(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = float(i);
  y[n + i] = y[n - 1 - i];  // written by another CTA, nothing orders the two
}
