#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "ops/scaled_mm/scaled_mm_cuda.h"
#include "ops/scaled_mm/sm120a.h"
#include "ops/scaled_mm/sm80.h"
#include "ops/scaled_mm/sm89.h"
#include "ops/scaled_mm/sm90a.h"

namespace mpkernels::scaled_mm {
namespace {

#define MPK_IMPLEMENTATION(file) \
  {#file, file::why_not, file::describe, file::workspace_bytes, file::run}
constexpr Implementation kSm80 = MPK_IMPLEMENTATION(sm80);
constexpr Implementation kSm89 = MPK_IMPLEMENTATION(sm89);
constexpr Implementation kSm90a = MPK_IMPLEMENTATION(sm90a);
constexpr Implementation kSm120a = MPK_IMPLEMENTATION(sm120a);

// Null where there are no kernels. sm_89's would run on sm_100, but as FP16 instructions: the FP8
// rate is only to be had from tcgen05.
const Implementation* implementation_for(int architecture) {
  switch (architecture) {
    case 80:
    case 86:
    case 87:
      return &kSm80;
    case 89:
      return &kSm89;
    case 90:
      return &kSm90a;
    case 120:
    case 121:
      return &kSm120a;
    default:
      return nullptr;
  }
}

const uint8_t* operand(const OnDeviceOf& device, const char* name, const Tensor& t) {
  device.check(name, t);
  MPK_CHECK(t.dim() == 2, name, " must be a matrix");
  const auto* data = (const uint8_t*)t.const_data_ptr();
  const bool dense = t.stride(1) == 1 || t.size(1) <= 1;
  const bool aligned = (t.size(0) <= 1 || t.stride(0) % 16 == 0) && (uintptr_t)data % 16 == 0;
  MPK_CHECK((dense && aligned) || t.size(1) == 0, name,
            " must have unit stride along K and rows that begin at multiples of 16 bytes");
  return data;
}

Product product_of(const OnDeviceOf& device, const Tensor& a, const Tensor& b,
                   const Tensor& dequant_scale_a, const Tensor& dequant_scale_b,
                   const std::optional<Tensor>& bias, Tensor& out, bool accumulate,
                   bool use_fast_accum) {
  Product p{};
  p.a = operand(device, "a", a), p.b = operand(device, "b", b);
  p.pitch_a = a.stride(0), p.pitch_b = b.stride(0);
  p.format_a = fp8_of(a.scalar_type()), p.format_b = fp8_of(b.scalar_type());
  p.m = a.size(0), p.n = b.size(0), p.k = a.size(1);
  MPK_CHECK(b.size(1) == p.k, "scaled_mm: a and b differ in K");
  device.check_fp32_scalar("dequant_scale_a", dequant_scale_a);
  device.check_fp32_scalar("dequant_scale_b", dequant_scale_b);
  p.dequant_scale_a = (const float*)dequant_scale_a.const_data_ptr();
  p.dequant_scale_b = (const float*)dequant_scale_b.const_data_ptr();
  if (bias) {
    device.check_dense("bias", *bias);
    MPK_CHECK(bias->numel() == p.n, "scaled_mm: bias must have N values");
    p.bias = bias->const_data_ptr();
    p.bias_type = high_precision_of(bias->scalar_type());
  }
  device.check("out", out);
  MPK_CHECK(out.dim() == 2 && out.size(0) == p.m && out.size(1) == p.n &&
                (out.stride(1) == 1 || p.n <= 1),
            "scaled_mm: out must be a matrix (M, N) with unit stride along N");
  p.out = out.mutable_data_ptr();
  p.out_pitch = out.stride(0);
  p.out_type = high_precision_of(out.scalar_type());
  p.accumulate = accumulate, p.use_fast_accum = use_fast_accum;
  return p;
}

const Implementation& implementation_of(const Product& p, const DeviceFacts& facts) {
  const Implementation* found = implementation_for(facts.architecture);
  MPK_CHECK(found != nullptr, "scaled_mm: no kernels for sm_", facts.architecture);
  const char* why = found->why_not(p, facts);
  MPK_CHECK(why == nullptr, "scaled_mm, ", found->name, ": ", why);
  return *found;
}

// The file of kernels for an architecture, or nothing.
std::string file_for(int64_t architecture) {
  const Implementation* found = implementation_for((int)architecture);
  return found == nullptr ? "" : found->name;
}

int64_t workspace_for(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
                      const Tensor& dequant_scale_b, const std::optional<Tensor>& bias, Tensor out,
                      bool accumulate, bool use_fast_accum) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  if (p.m == 0 || p.n == 0) return 0;
  return implementation_of(p, device.facts()).workspace_bytes(p, device.facts());
}

std::string describe(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
                     const Tensor& dequant_scale_b, const std::optional<Tensor>& bias, Tensor out,
                     bool accumulate, bool use_fast_accum) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  if (p.m == 0 || p.n == 0) return "nothing to launch: out is empty";
  return implementation_of(p, device.facts()).describe(p, device.facts());
}

void bind_cuda(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
               const Tensor& dequant_scale_b, const std::optional<Tensor>& bias, Tensor out,
               bool accumulate, bool use_fast_accum, std::optional<Tensor> workspace) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  if (p.m == 0 || p.n == 0) return;
  const Implementation& kernels = implementation_of(p, device.facts());
  Workspace memory{nullptr, 0};
  if (workspace) {
    device.check_dense("workspace", *workspace);
    memory = {workspace->mutable_data_ptr(), workspace->numel()};
  }
  kernels.run(p, device.facts(), memory, device.stream());
}

// Of Hopper's kernels one by one, where -1 leaves the choice to the plan: for tests and
// measurements.
sm90a::Choice choice_of(int64_t tile, int64_t splits, int64_t cluster) {
  MPK_CHECK(tile < sm90a::kTileCount && cluster <= 2, "scaled_mm_sm90a: no such tile or cluster");
  return {(int)tile, (int)splits, (int)cluster};
}

int64_t sm90a_workspace(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
                        const Tensor& dequant_scale_b, const std::optional<Tensor>& bias,
                        Tensor out, bool accumulate, bool use_fast_accum, int64_t tile,
                        int64_t splits, int64_t cluster) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  return sm90a::plan(p, device.facts(), nullptr, choice_of(tile, splits, cluster)).workspace_bytes;
}

void bind_sm90a(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
                const Tensor& dequant_scale_b, const std::optional<Tensor>& bias, Tensor out,
                bool accumulate, bool use_fast_accum, std::optional<Tensor> workspace, int64_t tile,
                int64_t splits, int64_t cluster) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  const char* why = sm90a::why_not(p, device.facts());
  MPK_CHECK(why == nullptr, "scaled_mm_sm90a: ", why);
  void* memory = workspace ? workspace->mutable_data_ptr() : nullptr;
  sm90a::Plan plan = sm90a::plan(p, device.facts(), memory, choice_of(tile, splits, cluster));
  MPK_CHECK(plan.workspace_bytes == 0 || (workspace && workspace->numel() >= plan.workspace_bytes),
            "scaled_mm_sm90a: the workspace is too small");
  sm90a::run(plan, p, device.stream());
}

}  // namespace
}  // namespace mpkernels::scaled_mm

#define MPK_ARGUMENTS                                                                  \
  "Tensor a, Tensor b, Tensor dequant_scale_a, Tensor dequant_scale_b, Tensor? bias, " \
  "Tensor(a!) out, bool accumulate, bool use_fast_accum"
STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def("scaled_mm(" MPK_ARGUMENTS ", Tensor(b!)? workspace) -> ()");
  m.def("scaled_mm_workspace(" MPK_ARGUMENTS ") -> int");
  m.def("scaled_mm_plan(" MPK_ARGUMENTS ") -> str");
  m.def("scaled_mm_file(int architecture) -> str");
  m.def("scaled_mm_sm90a(" MPK_ARGUMENTS
        ", Tensor(b!)? workspace, int tile, int splits, int cluster) -> ()");
  m.def("scaled_mm_sm90a_workspace(" MPK_ARGUMENTS ", int tile, int splits, int cluster) -> int");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("scaled_mm", TORCH_BOX(&mpkernels::scaled_mm::bind_cuda));
  m.impl("scaled_mm_workspace", TORCH_BOX(&mpkernels::scaled_mm::workspace_for));
  m.impl("scaled_mm_plan", TORCH_BOX(&mpkernels::scaled_mm::describe));
  m.impl("scaled_mm_file", TORCH_BOX(&mpkernels::scaled_mm::file_for));
  m.impl("scaled_mm_sm90a", TORCH_BOX(&mpkernels::scaled_mm::bind_sm90a));
  m.impl("scaled_mm_sm90a_workspace", TORCH_BOX(&mpkernels::scaled_mm::sm90a_workspace));
}
