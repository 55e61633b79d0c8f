// FP8 GEMM for Hopper: TMA fills a ring of 128-byte-swizzled stages, wgmma reads it.
//
// The structure is that of DeepGEMM's sm90_fp8_gemm_1d2d, CUTLASS's cooperative FP8 kernels and
// fast.cu: one producer warpgroup, of which one thread issues TMA, and one or two consumer
// warpgroups with most of the registers; a static persistent walk in an order that keeps L2 warm;
// results by stmatrix and TMA; in clusters of two, TMA multicasts the larger operand's tile to
// both. It differs in
//   - the promotion: every 128 of K, by additions. DeepGEMM multiplies by block scales there; with
//   one
//     scale a tensor it can wait for the epilogue;
//   - tiles: 256 x 128 with two slices of 64 rows a warpgroup (DeepGEMM has it too, CUTLASS not),
//   since
//     it needs 3/4 of the bytes of 128 x 128 a product; 64 x 128 runs two blocks an SM;
//   - small M: operands swapped, results transposed by stmatrix.trans on their way out (vLLM swaps
//   by
//     returning a transposed view);
//   - K is split where tiles are few, partial sums are added in order by mpk_scaled_mm_finish: the
//   same
//     bytes every time, unlike with atomics.
#include <stdexcept>

#include "ops/scaled_mm/sm90a_epilogue.cuh"
#include "ops/scaled_mm/sm90a_finish.cuh"

namespace mpkernels::scaled_mm::sm90a {

// What setmaxnreg leaves and gives: the kernel starts with 65,536 / (threads * blocks_per_sm)
// registers a thread, in multiples of 8.
//   384 threads: 168; 40 * 128 + 232 * 256 = 168 * 384
//   256 threads, two blocks: 128; 40 * 128 + 216 * 128 = 128 * 256
constexpr int kProducerRegisters = 40;
__host__ __device__ constexpr int consumer_registers(const Tile& t) {
  return t.consumers == 2 ? 232 : 216;
}

template <int kTile, Fp8 kX, Fp8 kY>
__device__ __forceinline__ void scaled_mm(const Params& p) {
  constexpr Tile kShape = kTiles[kTile];
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  const uint32_t shared = ptx::shared_address(shared_memory);
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);  // known to be uniform
  Ring<kTile> ring(shared);
  if (threadIdx.x == 0) ring.initialise(p.cluster);
  if (p.cluster > 1)
    ptx::sync_cluster();
  else
    __syncthreads();
  if (warpgroup == kShape.consumers) {
    ptx::shrink_registers<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<kTile>(p, ring);
  } else {
    ptx::grow_registers<consumer_registers(kShape)>();
    ring.consume(p.cluster);
    Epilogue<kTile> epilogue(p, shared, warpgroup);
    Walk walk(p);
    for (Work work; walk.next<kShape.shares_x()>(p, work);) {
      Sums<kTile> sums;
      epilogue.fetch_bias(work);
      if constexpr (kShape.promote)
        multiply_promoting<kTile, kX, kY>(sums, ring, work, warpgroup);
      else
        multiply_fast<kTile, kX, kY>(sums, ring, work, warpgroup);
      epilogue.finish(sums, work);
    }
    ptx::wait_for_stores();
  }
  // The other CTA may still send to this one's shared memory.
  if (p.cluster > 1) ptx::sync_cluster();
}

}  // namespace mpkernels::scaled_mm::sm90a

// The tile's index in kTiles.
#define MPK_SM90A_KERNEL(name, tile, x, y)                                                        \
  extern "C" __global__ void __launch_bounds__(                                                   \
      mpkernels::scaled_mm::sm90a::kTiles[tile].threads(),                                        \
      mpkernels::scaled_mm::sm90a::kTiles[tile].blocks_per_sm)                                    \
      mpk_scaled_mm_sm90a_##name(const __grid_constant__ mpkernels::scaled_mm::sm90a::Params p) { \
    mpkernels::scaled_mm::sm90a::scaled_mm<tile, mpkernels::Fp8::x, mpkernels::Fp8::y>(p);        \
  }
#define MPK_SM90A_TILE(name, tile)                       \
  MPK_SM90A_KERNEL(name##_e4m3_e4m3, tile, kE4M3, kE4M3) \
  MPK_SM90A_KERNEL(name##_e4m3_e5m2, tile, kE4M3, kE5M2) \
  MPK_SM90A_KERNEL(name##_e5m2_e4m3, tile, kE5M2, kE4M3) \
  MPK_SM90A_KERNEL(name##_e5m2_e5m2, tile, kE5M2, kE5M2)
MPK_SM90A_TILE(256x128, 0)
MPK_SM90A_TILE(128x128, 1)
MPK_SM90A_TILE(64x128, 2)
MPK_SM90A_TILE(128x256_fast, 3)
MPK_SM90A_TILE(128x64_swapped, 4)
MPK_SM90A_TILE(128x16_swapped, 5)

extern "C" __global__ void __launch_bounds__(mpkernels::scaled_mm::sm90a::kFinishThreads)
    mpk_scaled_mm_finish(const __grid_constant__ mpkernels::scaled_mm::sm90a::FinishParams p) {
  mpkernels::scaled_mm::sm90a::finish(p);
}

namespace mpkernels::scaled_mm::sm90a {

#define MPK_SM90A_ENTRIES(name)                              \
  {MPK_KERNEL_ENTRY(mpk_scaled_mm_sm90a_##name##_e4m3_e4m3), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_sm90a_##name##_e4m3_e5m2), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_sm90a_##name##_e5m2_e4m3), \
   MPK_KERNEL_ENTRY(mpk_scaled_mm_sm90a_##name##_e5m2_e5m2)}
// [tile][2 * format of X + format of Y]
static const Kernel kKernels[kTileCount][4] = {
    MPK_SM90A_ENTRIES(256x128),        MPK_SM90A_ENTRIES(128x128),
    MPK_SM90A_ENTRIES(64x128),         MPK_SM90A_ENTRIES(128x256_fast),
    MPK_SM90A_ENTRIES(128x64_swapped), MPK_SM90A_ENTRIES(128x16_swapped)};
static const Kernel kFinish = MPK_KERNEL_ENTRY(mpk_scaled_mm_finish);

void run(Plan& plan, const Product& product, Stream stream) {
  if (plan.shape.grid.x != 0) {
    const bool swapped = kTiles[plan.tile].swapped;
    const Fp8 x = swapped ? product.format_b : product.format_a;
    const Fp8 y = swapped ? product.format_a : product.format_b;
    plan.params.x = encode(plan.x);
    plan.params.y = encode(plan.y);
    if (plan.params.emit != Emit::kElements) plan.params.out = encode(plan.out);
    launch(kKernels[plan.tile][2 * (int)x + (int)y], plan.shape, plan.params, stream);
  }
  if (plan.finish_shape.grid.x != 0) launch(kFinish, plan.finish_shape, plan.finish, stream);
}

void run(const Product& product, const DeviceFacts& facts, Workspace workspace, Stream stream) {
  Plan found = plan(product, facts, workspace.data);
  if (found.workspace_bytes > workspace.bytes)
    throw std::runtime_error("mpkernels: scaled_mm: the workspace is too small");
  run(found, product, stream);
}

}  // namespace mpkernels::scaled_mm::sm90a
