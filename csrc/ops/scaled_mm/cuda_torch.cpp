#include <torch/csrc/stable/library.h>

#include <optional>

#include "host/cuda_binding.h"
#include "host/formats.h"
#include "ops/scaled_mm/scaled_mm_cuda.h"
#include "ops/scaled_mm/sm90a.h"

namespace mpkernels::scaled_mm {
namespace {

Product product_of(const OnDeviceOf& device, const Tensor& a, const Tensor& b,
                   const Tensor& dequant_scale_a, const Tensor& dequant_scale_b,
                   const std::optional<Tensor>& bias, Tensor& out, bool accumulate,
                   bool use_fast_accum) {
  device.check("b", b);
  device.check("out", out);
  device.check_fp32_scalar("dequant_scale_a", dequant_scale_a);
  device.check_fp32_scalar("dequant_scale_b", dequant_scale_b);
  Product p{};
  p.a = (const uint8_t*)a.const_data_ptr();
  p.b = (const uint8_t*)b.const_data_ptr();
  p.pitch_a = a.stride(0);
  p.pitch_b = b.stride(0);
  p.format_a = fp8_of(a.scalar_type());
  p.format_b = fp8_of(b.scalar_type());
  p.m = a.size(0), p.n = b.size(0), p.k = a.size(1);
  p.dequant_scale_a = (const float*)dequant_scale_a.const_data_ptr();
  p.dequant_scale_b = (const float*)dequant_scale_b.const_data_ptr();
  if (bias) {
    device.check_dense("bias", *bias);
    p.bias = bias->const_data_ptr();
    p.bias_type = high_precision_of(bias->scalar_type());
  }
  p.out = out.mutable_data_ptr();
  p.out_pitch = out.stride(0);
  p.out_type = high_precision_of(out.scalar_type());
  p.accumulate = accumulate;
  p.use_fast_accum = use_fast_accum;
  return p;
}

int64_t sm90a_workspace(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
                        const Tensor& dequant_scale_b, std::optional<Tensor> bias, Tensor out,
                        bool accumulate, bool use_fast_accum, int64_t tile, int64_t splits,
                        int64_t cluster) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  return sm90a::plan(p, device.facts(), nullptr, {(int)tile, (int)splits, (int)cluster})
      .workspace_bytes;
}

void sm90a_run(const Tensor& a, const Tensor& b, const Tensor& dequant_scale_a,
               const Tensor& dequant_scale_b, std::optional<Tensor> bias, Tensor out,
               bool accumulate, bool use_fast_accum, std::optional<Tensor> workspace, int64_t tile,
               int64_t splits, int64_t cluster) {
  const OnDeviceOf device(a);
  const Product p = product_of(device, a, b, dequant_scale_a, dequant_scale_b, bias, out,
                               accumulate, use_fast_accum);
  sm90a::Plan plan = sm90a::plan(p, device.facts(), workspace ? workspace->mutable_data_ptr() : nullptr,
                                 {(int)tile, (int)splits, (int)cluster});
  sm90a::run(plan, p, device.stream());
}

}  // namespace
}  // namespace mpkernels::scaled_mm

#define MPK_SM90A_ARGUMENTS                                                                   \
  "Tensor a, Tensor b, Tensor dequant_scale_a, Tensor dequant_scale_b, Tensor? bias, Tensor(a!) " \
  "out, bool accumulate, bool use_fast_accum, "
STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def("scaled_mm_sm90a_workspace(" MPK_SM90A_ARGUMENTS "int tile, int splits, int cluster) -> int");
  m.def("scaled_mm_sm90a(" MPK_SM90A_ARGUMENTS
        "Tensor(b!)? workspace, int tile, int splits, int cluster) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("scaled_mm_sm90a_workspace", TORCH_BOX(&mpkernels::scaled_mm::sm90a_workspace));
  m.impl("scaled_mm_sm90a", TORCH_BOX(&mpkernels::scaled_mm::sm90a_run));
}
