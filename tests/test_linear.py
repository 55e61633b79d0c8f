"""fp8_linear and Fp8Linear: values, gradients, and everything a drop-in nn.Linear must survive."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mpkernels as mp
from mpkernels.formats import HIGH_PRECISION_DTYPES
from mpkernels.layout import has_aligned_rows
from mpkernels.ops.scaled_mm import op as scaled_mm
from mpkernels.testing import assert_matches, reduction

RECIPES = {
    "current": mp.Float8CurrentScaling(),
    "current e4m3 margin 1": mp.Float8CurrentScaling(fp8_format=mp.Format.E4M3, margin=1),
    "current power of two": mp.Float8CurrentScaling(power_of_two_scales=True),
    "delayed": mp.DelayedScaling(amax_history_len=4),
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def randn(*size, dtype=torch.float32, seed=0, requires_grad=False):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_(requires_grad)


def dequantised(x, dtype, recipe):
    """What a tensor is after a trip through FP8, in float64."""
    q = mp.quantize_current(x, dtype, margin=recipe.margin, power_of_two=recipe.power_of_two_scales)
    return q.q.float().double() * q.dequant_scale.double()


def expected(x, weight, bias, g, recipe):
    """Output and gradients of the dequantised operands in float64, each with the magnitude of its sum."""
    forward, backward = recipe.fp8_format.forward_dtype, recipe.fp8_format.backward_dtype
    dx, dw = dequantised(x.flatten(0, -2), forward, recipe), dequantised(weight, forward, recipe)
    dg = dequantised(g.flatten(0, -2), backward, recipe)
    b = bias.double() if bias is not None else torch.zeros(weight.shape[0], dtype=torch.float64)
    return {
        "out": (dx @ dw.t() + b, dx.abs() @ dw.abs().t() + b.abs(), x.shape[-1]),
        "grad_x": (dg @ dw, dg.abs() @ dw.abs(), weight.shape[0]),
        "grad_w": (dg.t() @ dx, dg.abs().t() @ dx.abs(), dx.shape[0]),
    }


@pytest.mark.parametrize("recipe", [r for n, r in RECIPES.items() if n != "delayed"], ids=[n for n in RECIPES if n != "delayed"])
@pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
@pytest.mark.parametrize("lead", [(), (5,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_output_and_gradients_are_those_of_the_dequantised_operands(recipe, dtype, lead, with_bias):
    x, weight = randn(*lead, 40, dtype=dtype, requires_grad=True), randn(24, 40, dtype=dtype, seed=1, requires_grad=True)
    bias = randn(24, dtype=dtype, seed=2, requires_grad=True) if with_bias else None
    g = randn(*lead, 24, dtype=dtype, seed=3)
    out = mp.fp8_linear(x, weight, bias, recipe=recipe)
    assert out.shape == (*lead, 24)
    assert out.dtype == dtype
    out.backward(g)
    x2, g2 = x.detach().reshape(-1, 40), g.reshape(-1, 24)
    wanted = expected(x2, weight.detach(), bias.detach() if with_bias else None, g2, recipe)
    results = {"out": out.reshape(-1, 24), "grad_x": x.grad.reshape(-1, 40), "grad_w": weight.grad}
    for name, (value, magnitude, terms) in wanted.items():
        assert results[name].dtype == dtype
        assert_matches(results[name], value, reduction(terms), magnitude=magnitude)
    if with_bias:
        torch.testing.assert_close(bias.grad, g2.sum(0, dtype=dtype))


def test_a_wrong_gradient_would_be_seen():
    """The bound is tight enough to tell E5M2 gradients from E4M3 ones."""
    x, weight, g = randn(16, 40), randn(24, 40, seed=1), randn(16, 24, seed=2)
    value, magnitude, terms = expected(x, weight, None, g, RECIPES["current"])["grad_x"]
    wrong = expected(x, weight, None, g, mp.Float8CurrentScaling(fp8_format=mp.Format.E4M3))["grad_x"][0]
    with pytest.raises(AssertionError, match="break reduction"):
        assert_matches(wrong.float(), value, reduction(terms), magnitude=magnitude)


@given(
    rows=st.integers(0, 70),
    k=st.integers(1, 70),
    n=st.integers(1, 70),
    dtype=st.sampled_from(HIGH_PRECISION_DTYPES),
    bias=st.booleans(),
)
def test_any_shape_is_close_to_linear(rows, k, n, dtype, bias):
    x, weight = randn(rows, k, dtype=dtype, requires_grad=True), randn(n, k, dtype=dtype, seed=1, requires_grad=True)
    b = randn(n, dtype=dtype, seed=2, requires_grad=True) if bias else None
    out = mp.fp8_linear(x, weight, b)
    out.sum().backward()
    assert out.shape == (rows, n)
    assert x.grad.shape == x.shape
    assert weight.grad.shape == weight.shape
    if rows:
        dx, dw, db = x.detach().double(), weight.detach().double(), 0.0 if b is None else b.detach().double()
        exact = F.linear(dx, dw) + db
        # Each operand is off by at most half an E4M3 epsilon (1/16) relative, so a product by 1/8 + 1/256; plus the underflow of
        # values under 2^-9 / 448 of the largest, and the output's own rounding.
        magnitude = x.detach().double().abs() @ weight.detach().double().abs().t() + (
            0 if b is None else b.detach().double().abs()
        )
        underflow = k * 2.0**-9 / 448 * x.detach().abs().max().double() * weight.detach().abs().max().double() * 4
        assert ((out.double() - exact).abs() <= magnitude * (1 / 8 + 1 / 256 + 2.0**-7) + underflow).all()


@each_recipe
def test_repeated_calls_give_the_same_bytes(recipe):
    results = []
    for _ in range(2):
        layer = mp.Fp8Linear(48, 32, recipe=recipe)
        with torch.no_grad():
            layer.weight.copy_(randn(32, 48, seed=1))
            layer.bias.zero_()
        x = randn(20, 48, requires_grad=True)
        out = layer(x)
        out.square().sum().backward()
        results.append((out, x.grad, layer.weight.grad))
    for a, b in zip(*results, strict=True):
        assert_matches(a, b)


def test_frozen_weight_skips_its_gradient_and_saves_nothing_of_x():
    saved = []
    x, weight = randn(16, 48, requires_grad=True), randn(32, 48, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = mp.fp8_linear(x, weight)
    assert sorted(t.numel() for t in saved) == [1, 32 * 48]
    out.sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_input_without_gradient_saves_nothing_of_the_weight():
    saved = []
    x, weight = randn(16, 48), randn(32, 48, seed=1, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mp.fp8_linear(x, weight).sum().backward()
    assert sorted(t.numel() for t in saved) == [1, 16 * 48]
    assert weight.grad is not None


def test_only_fp8_and_scalars_are_saved_for_backward():
    saved = []
    x, weight, bias = (
        randn(16, 48, requires_grad=True),
        randn(32, 48, seed=1, requires_grad=True),
        randn(32, requires_grad=True),
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mp.fp8_linear(x, weight, bias)
    assert [t.dtype for t in saved if t.numel() > 1] == [torch.float8_e4m3fn] * 2
    assert sorted(t.numel() for t in saved) == [1, 1, 16 * 48, 32 * 48]


@each_recipe
@pytest.mark.parametrize("hooks", [False, True])
def test_rows_of_any_size_reach_every_product_in_place(recipe, hooks, monkeypatch):
    """No dimension is a multiple of 16. What is saved keeps its rows, unless hooks move it: then products must do without."""
    layer, x = mp.Fp8Linear(21, 35, recipe=recipe), randn(3, 11, 21, requires_grad=True)
    moved = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)
    operands, multiply = [], scaled_mm.call
    monkeypatch.setattr(scaled_mm, "call", lambda *args, **how: operands.append(args[:2]) or multiply(*args, **how))
    with moved if hooks else nullcontext():
        out = mp.fp8_linear(x, layer.weight, layer.bias, recipe=recipe, scaling=layer.scaling, backend="reference")
        out.backward(randn(*out.shape, seed=1))
    assert [(tuple(a.shape), tuple(b.shape)) for a, b in operands] == [
        ((33, 21), (35, 21)),
        ((33, 35), (21, 35)),
        ((35, 33), (21, 33)),
    ]
    in_place = [[has_aligned_rows(each) for each in pair] for pair in operands]
    assert in_place == [[True, True], [True, not hooks], [True, not hooks]]
    wanted = expected(x.detach(), layer.weight.detach(), layer.bias.detach(), randn(*out.shape, seed=1), recipe)
    for result, (value, magnitude, terms) in zip((out, x.grad, layer.weight.grad), wanted.values(), strict=True):
        assert_matches(result.detach().reshape(value.shape), value, reduction(terms), magnitude=magnitude)


@each_recipe
def test_a_module_may_be_used_twice_in_a_step(recipe):
    layer, x = mp.Fp8Linear(32, 32, recipe=recipe), randn(8, 32)
    for _ in range(3):
        layer.zero_grad()
        layer(layer(x)).square().mean().backward()
        assert layer.weight.grad.isfinite().all()
        assert layer.weight.grad.abs().max() > 0


@each_recipe
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients_and_state(recipe, reentrant):
    torch.manual_seed(0)
    plain = nn.Sequential(mp.Fp8Linear(32, 64, recipe=recipe), nn.GELU(), mp.Fp8Linear(64, 32, recipe=recipe))
    replayed = copy.deepcopy(plain)
    for step in range(4):
        x = randn(8, 32, seed=step, requires_grad=True)
        plain.zero_grad()
        replayed.zero_grad()
        plain(x).square().mean().backward()
        checkpoint(replayed, x, use_reentrant=reentrant).square().mean().backward()
        for (name, a), b in zip(plain.named_parameters(), replayed.parameters(), strict=True):
            assert_matches(b.grad, a.grad), name
    for (name, a), b in zip(plain.named_buffers(), replayed.buffers(), strict=True):
        assert_matches(b, a), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_sets_the_output_dtype(dtype):
    layer, x = mp.Fp8Linear(48, 32), randn(16, 48, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
    assert out.dtype == dtype
    out.sum().backward()
    assert x.grad.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.float32


@each_recipe
def test_no_grad_and_eval(recipe):
    layer, x = mp.Fp8Linear(48, 32, recipe=recipe).eval(), randn(16, 48)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        out = layer(x)
    assert not out.requires_grad
    for name, value in layer.state_dict().items():
        assert_matches(value, before[name]), name


def test_double_backward_is_refused():
    x, weight = randn(16, 48, requires_grad=True), randn(32, 48, requires_grad=True)
    (grad,) = torch.autograd.grad(mp.fp8_linear(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_nan_reaches_the_output_and_the_gradients():
    x, weight = randn(16, 48), randn(32, 48, seed=1, requires_grad=True)
    x[3, 5] = float("nan")
    out = mp.fp8_linear(x, weight)
    assert out[3].isnan().all()
    out.sum().backward()
    assert weight.grad.isnan().any()


def test_infinite_activations_saturate():
    x, weight = randn(16, 48), randn(32, 48, seed=1)
    x[3, 5] = float("inf")
    assert mp.fp8_linear(x, weight).isfinite().all()


@each_recipe
def test_deepcopy_and_pickle(recipe):
    layer, x = mp.Fp8Linear(48, 32, recipe=recipe), randn(16, 48)
    layer(x).sum().backward()
    layer.eval()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.recipe == recipe
        assert_matches(twin(x), layer(x))
        assert twin.weight is not layer.weight


@each_recipe
def test_checkpoints_go_both_ways_strictly(recipe):
    linear, layer = nn.Linear(48, 32), mp.Fp8Linear(48, 32, recipe=recipe)
    layer.load_state_dict(linear.state_dict(), strict=True)
    assert_matches(layer.weight, linear.weight)
    layer(randn(4, 48)).sum().backward()
    nn.Linear(48, 32).load_state_dict(mp.linear_state_dict(layer), strict=True)
    if recipe is not RECIPES["delayed"]:
        nn.Linear(48, 32).load_state_dict(layer.state_dict(), strict=True)
    twin = mp.Fp8Linear(48, 32, recipe=recipe)
    twin.load_state_dict(layer.state_dict(), strict=True)
    x = randn(16, 48, seed=9)
    assert_matches(twin.eval()(x), layer.eval()(x))


def test_from_linear_shares_parameters_and_leaves_the_linear_alone():
    linear = nn.Linear(48, 32)
    seen = []
    linear.register_forward_hook(lambda module, args, out: seen.append(module))
    layer = mp.Fp8Linear.from_linear(linear, mp.DelayedScaling())
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert type(linear) is nn.Linear
    assert not hasattr(linear, "scaling")
    assert [name for name, _ in linear.named_buffers()] == []
    layer(randn(4, 48))
    assert seen == [layer]


def test_from_linear_refuses_other_modules():
    with pytest.raises(TypeError, match=r"linear must be a torch\.nn\.Linear, got Conv1d"):
        mp.Fp8Linear.from_linear(nn.Conv1d(3, 3, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda: (randn(4, 8), randn(5, 9)), ValueError, r"x of shape \(4, 8\) and weight of shape \(5, 9\)"),
        (lambda: (randn(4, 8), randn(8)), ValueError, r"weight of shape \(8,\)"),
        (lambda: (torch.tensor(1.0), randn(5, 9)), ValueError, r"x of shape \(\)"),
        (lambda: (randn(4, 8).double(), randn(5, 8)), TypeError, "x must be one of torch.float32, .* got torch.float64"),
        (lambda: (randn(4, 8), randn(5, 8).int()), TypeError, "weight must be one of .* got torch.int32"),
        (lambda: (randn(4, 8), randn(5, 8), randn(4)), ValueError, r"bias must be of shape \(5,\), got \(4,\)"),
        (lambda: (randn(4, 8), randn(5, 8).to("meta")), ValueError, "weight must be on x's device cpu, got meta"),
    ],
)
def test_bad_tensors_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mp.fp8_linear(*arguments())


def test_recipe_and_scaling_must_fit():
    x, weight = randn(4, 8), randn(5, 8)
    with pytest.raises(TypeError, match="recipe must be a Float8CurrentScaling or a DelayedScaling, got 'fast'"):
        mp.fp8_linear(x, weight, recipe="fast")
    with pytest.raises(ValueError, match="scaling must be a DelayedScalingState"):
        mp.fp8_linear(x, weight, recipe=mp.DelayedScaling())
    with pytest.raises(ValueError, match="scaling must be None"):
        mp.fp8_linear(x, weight, scaling=mp.DelayedScalingState(mp.DelayedScaling()))


def test_backend_by_name():
    x, weight = randn(4, 8), randn(5, 8)
    assert_matches(mp.fp8_linear(x, weight, backend="reference"), mp.fp8_linear(x, weight), family=mp.testing.ulp(4))
    with pytest.raises(mp.BackendUnavailable, match="cuda"):
        mp.fp8_linear(x, weight, backend="cuda")


@each_recipe
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_to_one_graph_with_the_same_results(recipe, compiler):
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = nn.Sequential(mp.Fp8Linear(30, 64, recipe=recipe), nn.ReLU(), mp.Fp8Linear(64, 30, bias=False, recipe=recipe))
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, fullgraph=True, backend=compiler)
    for step in range(4):
        x, y = randn(8, 30, seed=step, requires_grad=True), randn(8, 30, seed=step, requires_grad=True)
        a, b = eager(x), compiled(y)
        assert_matches(b, a)
        a.square().mean().backward()
        b.square().mean().backward()
        assert_matches(y.grad, x.grad)
        for p, q in zip(eager.parameters(), twin.parameters(), strict=True):
            assert_matches(q.grad, p.grad)
        for (name, p), q in zip(eager.named_buffers(), twin.buffers(), strict=True):
            assert_matches(q, p), name
