// The operands of linear_forward and linear_backward on their way into FP8. The definition is
// mpkernels/operands.py.
#pragma once

#include <cmath>
#include <vector>

#include "host/check.h"
#include "host/formats.h"
#include "host/rows.h"
#include "ops/amax/amax.h"
#include "ops/compute_scale/compute_scale.h"
#include "ops/quantize/quantize.h"

namespace mpkernels {

constexpr int64_t kCodesAlignment = 64;  // a cache line, as torch aligns its own memory
constexpr int64_t aligned(int64_t bytes) {
  return (bytes + kCodesAlignment - 1) / kCodesAlignment * kCodesAlignment;
}

struct OperandScaling {
  bool calibrated, record;
  int margin;
  bool power_of_two;
};

// Writes the codes of x, and those of its transpose if they are wanted. Returns the dequant scale.
// `state`: nothing, or amax history, quant scale and dequant scale.
inline float quantize_operand(const char* name, const Tensor& x, Fp8 format,
                              const std::vector<Tensor>& state, const OperandScaling& how,
                              const CodeRows& q, const CodeRows& q_t) {
  check_cpu(name, x);
  const Rows rows = rows_of(name, x);
  const HighPrecision input = high_precision_of(x.scalar_type());
  float *newest = nullptr, *quant_scale = nullptr, *dequant_scale = nullptr;
  if (!state.empty()) {
    MPK_CHECK(state.size() == 3 && state[0].scalar_type() == ScalarType::Float &&
                  state[0].numel() >= 1 && state[0].is_cpu(),
              name, "'s scaling must be an amax history and two scales");
    check_fp32_scalar("quant_scale", state[1]);
    check_fp32_scalar("dequant_scale", state[2]);
    newest = (float*)state[0].mutable_data_ptr();
    quant_scale = (float*)state[1].mutable_data_ptr();
    dequant_scale = (float*)state[2].mutable_data_ptr();
  }
  const bool by_history = newest != nullptr && how.calibrated;
  float largest = 0.0f;
  compute_scale::Scales scales{};
  if (by_history) {
    scales = {*quant_scale, *dequant_scale};
  } else {
    MPK_CHECK(rows.is_dense(), name, " or its transpose must be contiguous");
    largest = amax::amax_cpu(rows.data, input, x.numel());
    scales =
        compute_scale::compute_scale_cpu(largest, format, how.margin, how.power_of_two, nullptr);
  }
  const float found = quantize::quantize_cpu({rows, input, format, scales.quant, q, q_t});
  if (newest != nullptr && how.record) {
    *newest = std::fmax(*newest, by_history ? found : largest);
    if (!by_history) *quant_scale = scales.quant, *dequant_scale = scales.dequant;
  }
  return scales.dequant;
}

// The codes of x's transpose, not wanted where t is the (0,) that stands for that.
inline CodeRows kept_codes_of(const char* name, Tensor& t, const Tensor& x) {
  check_cpu(name, t);
  return t.dim() == 2 ? code_rows_of(name, t, x, true) : CodeRows{};
}

}  // namespace mpkernels
