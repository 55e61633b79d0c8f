#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "host/cuda_binding.h"
#include "ops/update_delayed_scales/update_delayed_scales_cuda.h"

namespace mpkernels::update_delayed_scales {
namespace {

void bind_cuda(std::vector<Tensor> amax_histories, std::vector<Tensor> quant_scales,
               std::vector<Tensor> dequant_scales, Tensor step_ended,
               std::vector<double> fp8_maxima, int64_t margin, bool power_of_two,
               bool most_recent) {
  const OnDeviceOf device(step_ended);
  device.check_fp32_scalar("step_ended", step_ended);
  const size_t total = amax_histories.size();
  size_t done = 0;
  do {
    DelayedParams p{};
    p.step_ended = (float*)step_ended.mutable_data_ptr();
    p.count = (int)std::min(total - done, (size_t)kMostHistories);
    p.margin = (int)margin, p.power_of_two = power_of_two, p.most_recent = most_recent;
    for (int i = 0; i < p.count; ++i) {
      const size_t at = done + i;
      device.check_dense("amax_histories", amax_histories[at]);
      device.check_fp32_scalar("quant_scales", quant_scales[at]);
      device.check_fp32_scalar("dequant_scales", dequant_scales[at]);
      MPK_CHECK(amax_histories[at].scalar_type() == ScalarType::Float,
                "amax_histories must hold float32");
      p.histories[i] = {(float*)amax_histories[at].mutable_data_ptr(), amax_histories[at].numel(),
                        (float*)quant_scales[at].mutable_data_ptr(),
                        (float*)dequant_scales[at].mutable_data_ptr(),
                        fp8_maxima[at] == 448 ? Fp8::kE4M3 : Fp8::kE5M2};
    }
    done += p.count;
    p.last = done == total;
    update_delayed_scales_cuda(p, device.stream());
  } while (done < total);
}

}  // namespace
}  // namespace mpkernels::update_delayed_scales

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_cuda, m) {
  m.def(
      "update_delayed_scales(Tensor(a!)[] amax_histories, Tensor(b!)[] quant_scales, "
      "Tensor(c!)[] dequant_scales, Tensor(d!) step_ended, float[] fp8_maxima, int margin, "
      "bool power_of_two, bool most_recent) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("update_delayed_scales", TORCH_BOX(&mpkernels::update_delayed_scales::bind_cuda));
}
