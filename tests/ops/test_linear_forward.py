"""linear_forward: contract in mpkernels/ops/linear_forward/__init__.py. By definition its parts in turn."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from linear_inputs import quantized, randn, state

import mpkernels as mp
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from mpkernels.ops.linear_forward import op
from mpkernels.testing import assert_matches, bits_of, strided_views


def assert_is_its_parts(x, weight, bias, backend, *, dtype=torch.float8_e4m3fn, out_dtype=torch.bfloat16, scaled=False, **how):
    states = [[state(), state((3.0,), 16.0)] if scaled else [[], []] for _ in range(2)]
    how = {"calibrated": False, "record": False, **how}
    kept = {"keep_x": how.pop("keep_x", True), "keep_weight": how.pop("keep_weight", True)}
    q_x, x_t, dequant_x = quantized(x, dtype, states[0][0], backend, **how)
    q_w, weight_t, dequant_w = quantized(weight, dtype, states[0][1], backend, **how)
    expected = mp.scaled_mm(q_x, q_w, dequant_x, dequant_w, bias=bias, out_dtype=out_dtype, backend=backend)
    got = mp.linear_forward(x, weight, bias, *states[1], dtype=dtype, out_dtype=out_dtype, backend=backend, **how, **kept)
    assert_matches(got.out, expected)
    assert_matches(got.dequant_scale_x, dequant_x)
    assert_matches(got.dequant_scale_weight, dequant_w)
    for is_kept, codes, wanted in ((kept["keep_x"], got.x_t, x_t), (kept["keep_weight"], got.weight_t, weight_t)):
        assert torch.equal(bits_of(codes), bits_of(wanted)) if is_kept else codes.shape == (0,)
        assert not is_kept or codes.stride() == wanted.stride()
    for ours, wanted in zip(chain(*states[1]), chain(*states[0]), strict=True):
        assert_matches(ours, wanted)


@pytest.fixture(params=[None, "reference"], ids=["whole", "parts"])
def any_backend(request, backend):
    """The backend of the file, and the op's parts."""
    return request.param or backend


@pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
@pytest.mark.parametrize("fp8", FP8_DTYPES, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_current_scaling_is_the_parts_in_turn(any_backend, dtype, fp8, with_bias):
    x, weight = randn(33, 70, dtype=dtype), randn(24, 70, dtype=dtype, seed=1)
    bias = randn(24, seed=2) if with_bias else None
    assert_is_its_parts(x, weight, bias, any_backend, dtype=fp8, out_dtype=dtype, margin=1, power_of_two=with_bias)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("record", [True, False])
def test_delayed_scaling_is_the_parts_in_turn(any_backend, calibrated, record):
    assert_is_its_parts(randn(5, 8), randn(3, 8, seed=1), None, any_backend, scaled=True, calibrated=calibrated, record=record)


def test_nan_does_not_enter_the_history(any_backend):
    x = randn(5, 8)
    x[1, 2] = float("nan")
    scaling = state()
    mp.linear_forward(x, randn(3, 8), None, scaling, state(), calibrated=True, record=True, backend=any_backend)
    assert scaling[0].tolist() == [0.5, 2.0]


@pytest.mark.parametrize("keep_x", [True, False])
@pytest.mark.parametrize("keep_weight", [True, False])
def test_keeps_what_is_asked_for(any_backend, keep_x, keep_weight):
    assert_is_its_parts(randn(9, 16), randn(7, 16, seed=1), None, any_backend, keep_x=keep_x, keep_weight=keep_weight)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 8, 4), (5, 0, 4), (5, 8, 0), (1, 1, 1), (2, 300, 130)], ids=str)
def test_any_size(any_backend, m, k, n):
    assert_is_its_parts(randn(m, k), randn(n, k, seed=1), randn(n, seed=2), any_backend)


@pytest.mark.parametrize("calibrated", [True, False])
def test_strides(any_backend, calibrated):
    for _, x in strided_views((17, 40), torch.bfloat16):
        assert_is_its_parts(x, randn(6, 40), None, any_backend, scaled=True, calibrated=calibrated)
        assert_is_its_parts(randn(6, 40), x, randn(34, seed=2)[::2], any_backend, scaled=True, calibrated=calibrated)


def test_returned_scales_are_copies(any_backend):
    scaling = state()
    result = mp.linear_forward(randn(5, 8), randn(3, 8), None, scaling, state(), calibrated=True, backend=any_backend)
    scaling[2].fill_(9.0)
    assert result.dequant_scale_x == 1 / 64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: randn(2, 5, 8)}, ValueError, r"x must be \(M, K\), got shape \(2, 5, 8\)"),
        ({1: randn(3, 9)}, ValueError, r"x of shape \(5, 8\) and weight of shape \(3, 9\)"),
        ({0: randn(5, 8).double()}, TypeError, "x must be one of .* got torch.float64"),
        ({2: randn(4)}, ValueError, r"bias must be of shape \(3,\), got \(4,\)"),
        ({2: randn(3).to("meta")}, ValueError, "bias must be on cpu like the other arguments, got meta"),
        ({3: state()[:2]}, ValueError, "x_scaling must hold amax_history, quant_scale, dequant_scale, or nothing, got 2 tensors"),
        ({4: [torch.zeros(()), *state()[1:]]}, TypeError, r"weight_scaling\[0\] must be float32 of shape \(amax_history_len,\)"),
        ({4: [state()[0], torch.ones(1), torch.ones(())]}, TypeError, r"weight_scaling\[1\] must be a float32 tensor of shape"),
        ({7: torch.bfloat16}, TypeError, "dtype must be one of torch.float8_e4m3fn, torch.float8_e5m2, got torch.bfloat16"),
        ({8: 1000}, ValueError, "margin"),
        ({12: torch.float8_e5m2}, TypeError, "out_dtype must be one of"),
    ],
)
def test_refusals(change, error, message):
    args = [randn(5, 8), randn(3, 8), None, *op.example(torch.device("cpu"))[3:]]
    for index, value in change.items():
        args[index] = value
    with pytest.raises(error, match=message):
        op.torch_op(*args)
