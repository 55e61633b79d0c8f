"""linear_backward: contract in mpkernels/ops/linear_backward/__init__.py. By definition its parts in turn."""

from __future__ import annotations

import pytest
import torch
from linear_inputs import quantized, randn, state

import mpkernels as mp
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES
from mpkernels.ops.linear_backward import op
from mpkernels.testing import assert_matches, strided_views

E4M3 = torch.float8_e4m3fn


@pytest.fixture(params=[None, "reference"], ids=["whole", "parts"])
def any_backend(request, backend):
    """The backend of the file, and the op's parts."""
    return request.param or backend


def kept(m, k, n):
    """(x_t, dequant_scale_x, weight_t, dequant_scale_weight) of a forward pass."""
    return mp.linear_forward(randn(m, k, seed=5), randn(n, k, seed=6), None, [], [])[1:]


def assert_is_its_parts(g, operands, backend, *, dtype=torch.float8_e5m2, grad_dtypes=(torch.bfloat16,) * 2, scaled=False, **how):
    states = [state() if scaled else [] for _ in range(2)]
    how = {"calibrated": False, "record": False, **how}
    x_t, dequant_x, weight_t, dequant_w = operands
    q, q_t, dequant = quantized(g, dtype, states[0], backend, **how)
    dtypes = {"grad_x_dtype": grad_dtypes[0], "grad_weight_dtype": grad_dtypes[1]}
    got = mp.linear_backward(g, *operands, states[1], dtype=dtype, **dtypes, **how, backend=backend)
    products = ((got.grad_x, q, weight_t, dequant_w, grad_dtypes[0]), (got.grad_weight, q_t, x_t, dequant_x, grad_dtypes[1]))
    for grad, a, b, dequant_b, out_dtype in products:
        if b is None:
            assert grad.shape == (0,)
        else:
            assert_matches(grad, mp.scaled_mm(a, b, dequant, dequant_b, out_dtype=out_dtype, backend=backend))
    for ours, wanted in zip(*reversed(states), strict=True):
        assert_matches(ours, wanted)


@pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
@pytest.mark.parametrize("fp8", FP8_DTYPES, ids=str)
@pytest.mark.parametrize("power_of_two", [True, False])
def test_current_scaling_is_the_parts_in_turn(any_backend, dtype, fp8, power_of_two):
    how = {"dtype": fp8, "grad_dtypes": (dtype, torch.float32), "margin": 1, "power_of_two": power_of_two}
    assert_is_its_parts(randn(33, 24, dtype=dtype), kept(33, 70, 24), any_backend, **how)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("record", [True, False])
def test_delayed_scaling_is_the_parts_in_turn(any_backend, calibrated, record):
    assert_is_its_parts(randn(5, 3), kept(5, 8, 3), any_backend, scaled=True, calibrated=calibrated, record=record)


@pytest.mark.parametrize("without", ["x", "weight", "both"])
def test_no_gradient_for_what_was_not_kept(any_backend, without):
    x_t, dequant_x, weight_t, dequant_w = kept(5, 8, 3)
    x = (None, None) if without != "weight" else (x_t, dequant_x)
    weight = (None, None) if without != "x" else (weight_t, dequant_w)
    assert_is_its_parts(randn(5, 3), (*x, *weight), any_backend, scaled=True, calibrated=True, record=True)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 8, 4), (5, 0, 4), (5, 8, 0), (1, 1, 1), (130, 7, 300)], ids=str)
def test_any_size(any_backend, m, k, n):
    assert_is_its_parts(randn(m, n), kept(m, k, n), any_backend)


@pytest.mark.parametrize("calibrated", [True, False])
def test_strides(any_backend, calibrated):
    for _, g in strided_views((17, 40), torch.bfloat16):
        x_t, dequant_x, weight_t, dequant_w = kept(17, 12, 40)
        apart = (x_t.clone(), dequant_x, weight_t[::2], dequant_w)
        assert_is_its_parts(g, (x_t, dequant_x, weight_t, dequant_w), any_backend, scaled=True, calibrated=calibrated)
        assert_is_its_parts(g, apart, any_backend, scaled=True, calibrated=calibrated)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: randn(2, 5, 3)}, ValueError, r"grad_out must be \(M, N\), got shape \(2, 5, 3\)"),
        ({0: randn(5, 3).int()}, TypeError, "grad_out must be one of .* got torch.int32"),
        ({1: None}, ValueError, "x_t and its dequant scale belong together"),
        ({1: randn(8, 4).to(E4M3)}, ValueError, r"x_t must be \(K, 5\), got shape \(8, 4\)"),
        (
            {1: randn(5, 8).to(E4M3).t()},
            ValueError,
            r"x_t must have adjacent elements along K, .* got strides \(1, 8\); pass q_t of",
        ),
        ({3: randn(8, 3)}, TypeError, "weight_t must be one of torch.float8_e4m3fn, .* got torch.float32"),
        ({4: torch.ones(1)}, TypeError, "weight_t's dequant scale must be a float32 tensor of shape"),
        ({5: state()[:1]}, ValueError, "grad_scaling must hold"),
        ({8: torch.float32}, TypeError, "dtype must be one of torch.float8_e4m3fn"),
        ({12: E4M3}, TypeError, "grad_weight_dtype must be one of"),
    ],
)
def test_refusals(change, error, message):
    args = list(op.example(torch.device("cpu")))
    for index, value in change.items():
        args[index] = value
    with pytest.raises(error, match=message):
        op.torch_op(*args)
