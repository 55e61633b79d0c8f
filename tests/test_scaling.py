"""DelayedScalingState: histories, scales, the end of a step, and its life as ordinary buffers."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import mpkernels as mp
from mpkernels.formats import E4M3, E5M2


def layer_with(**options):
    torch.manual_seed(0)
    return mp.Fp8Linear(16, 16, bias=False, recipe=mp.DelayedScaling(**options))


def step(layer, input_amax, grad_amax=1.0):
    """A forward and backward whose input and output gradient have exactly these largest magnitudes."""
    x = torch.linspace(-0.5, 1.0, 16).repeat(4, 1) * input_amax
    out = layer(x)
    out.backward(torch.linspace(-0.5, 1.0, 16).repeat(4, 1) * grad_amax)
    return out


def scale_for(f, amax):
    return torch.tensor(f.max) / torch.tensor(float(amax))


def test_first_forward_and_its_backward_use_current_scaling():
    layer, current = layer_with(), mp.Fp8Linear(16, 16, bias=False)
    with torch.no_grad():
        current.weight.copy_(layer.weight)
    assert torch.equal(step(layer, 3.0, 1e-6), step(current, 3.0, 1e-6))
    assert torch.equal(layer.weight.grad, current.weight.grad)
    assert layer.weight.grad.abs().max() > 0


def test_scales_follow_the_maximum_of_the_history():
    layer = layer_with(amax_history_len=3)
    state = layer.scaling
    for amax in (1.0, 4.0, 2.0, 0.5):
        step(layer, amax, amax / 8)
    assert state.input_quant_scale == scale_for(E4M3, 4.0)  # the fourth forward saw 1, 4, 2
    assert state.grad_output_quant_scale == scale_for(E5M2, 0.5)
    assert state.input_amax_history.tolist() == [0.5, 2.0, 4.0]  # slot 0 runs; 1.0 has left
    step(layer, 1.0)
    step(layer, 1.0)
    assert state.input_quant_scale == scale_for(E4M3, 2.0)
    assert torch.equal(state.input_dequant_scale, state.input_quant_scale.reciprocal())


def test_most_recent():
    layer = layer_with(amax_history_len=3, amax_compute_algo="most_recent")
    for amax in (1.0, 4.0, 2.0, 0.5):
        step(layer, amax)
    assert layer.scaling.input_quant_scale == scale_for(E4M3, 2.0)


def test_own_functions_see_the_history_and_set_the_scale():
    seen = []

    def algo(history):
        seen.append(history.clone())
        return history.mean()

    def factor(amax, quant_scale, fp8_max, recipe):
        return fp8_max / (2 * amax)

    layer = layer_with(amax_history_len=2, amax_compute_algo=algo, scaling_factor_compute_algo=factor)
    for amax in (1.0, 3.0, 8.0):
        step(layer, amax)
    assert layer.scaling.input_quant_scale == 448 / (2 * 2.0)
    assert seen[-3].tolist() == [3.0, 1.0]


def test_own_function_that_is_max_equals_max():
    builtin, own = layer_with(amax_history_len=3), layer_with(amax_history_len=3, amax_compute_algo=lambda h: h.max())
    for amax in (1.0, 4.0, float("inf"), 2.0, 0.5, 0.25):
        step(builtin, amax)
        step(own, amax)
        for (name, a), b in zip(builtin.named_buffers(), own.buffers(), strict=True):
            assert torch.equal(a, b), name


def test_margin_and_power_of_two():
    layer = layer_with(margin=2, power_of_two_scales=True)
    step(layer, 3.0)
    step(layer, 3.0)
    assert layer.scaling.input_quant_scale == 32.0  # 448 / (3 * 4) = 37.3, rounded down


def test_growth_saturates_for_one_step_only():
    layer = layer_with(power_of_two_scales=True)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(16))
    x = torch.full((4, 16), 1.0)
    layer(x).sum().backward()
    assert layer(8 * x).detach().max() == 448 / 256  # the scale is still that for 1: 8 saturates
    layer(x).sum().backward()
    assert layer(8 * x).detach().max() == 8.0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_nonfinite_amax_leaves_no_trace(bad):
    layer = layer_with(amax_history_len=2)
    step(layer, 2.0)
    step(layer, bad)
    step(layer, 2.0)
    assert layer.scaling.input_quant_scale == scale_for(E4M3, 2.0)
    step(layer, 2.0)
    step(layer, 2.0)
    assert layer.scaling.input_amax_history.isfinite().all()
    assert layer.scaling.input_quant_scale == scale_for(E4M3, 2.0)


def test_zero_tensors_keep_the_scale():
    layer = layer_with(amax_history_len=1)
    step(layer, 2.0)
    step(layer, 0.0, 0.0)
    step(layer, 2.0)
    assert layer.scaling.input_quant_scale == scale_for(E4M3, 2.0)


def test_a_step_ends_with_a_backward_not_with_a_forward():
    layer = layer_with()
    step(layer, 1.0)
    before = copy.deepcopy(layer.scaling.state_dict())
    x = torch.full((4, 16), 100.0)
    layer(x)
    quant_scale = layer.scaling.input_quant_scale.clone()
    for _ in range(3):
        layer(x)
    assert layer.scaling.input_quant_scale == quant_scale
    assert layer.scaling.input_amax_history[0] == 100.0
    assert before["input_amax_history"][0] == 1.0


def test_interleaved_forwards_and_backwards():
    """Pipeline parallelism: a later forward changes the scales before an earlier backward has run."""
    layer = layer_with(amax_history_len=1)
    step(layer, 1.0)
    xs = [torch.full((4, 16), value, requires_grad=True) for value in (1.0, 8.0)]
    outs = [layer(x) for x in xs]
    outs[0].sum().backward()
    third = layer(xs[1])  # the scales change here
    outs[1].sum().backward()
    third.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_eval_uses_the_scales_and_records_nothing():
    layer = layer_with()
    step(layer, 1.0)
    step(layer, 1.0)
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    layer(torch.full((4, 16), 50.0, requires_grad=True)).sum().backward()
    after = layer.state_dict()
    for name in before:
        if not name.endswith("step_ended"):
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("convert", [lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.to(torch.bfloat16)])
def test_buffers_stay_float32_to_the_bit(convert):
    layer = layer_with()
    step(layer, 0.3)
    step(layer, 0.3)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    convert(layer)
    assert layer.weight.dtype is not torch.float32
    for name, buffer in layer.named_buffers():
        assert buffer.dtype is torch.float32
        assert torch.equal(buffer, before[name]), name


def test_resumes_from_a_checkpoint_as_if_never_stopped():
    through, stopped = layer_with(amax_history_len=3), layer_with(amax_history_len=3)
    for amax in (1.0, 4.0):
        step(through, amax)
        step(stopped, amax)
    resumed = layer_with(amax_history_len=3)
    resumed.load_state_dict(stopped.state_dict())
    for amax in (2.0, 3.0):
        assert torch.equal(step(through, amax), step(resumed, amax))
    for (name, a), b in zip(through.named_buffers(), resumed.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_a_plain_checkpoint_starts_a_new_history():
    layer = layer_with()
    step(layer, 4.0)
    layer.load_state_dict(torch.nn.Linear(16, 16, bias=False).state_dict(), strict=True)
    assert not layer.scaling.calibrated
    assert layer.scaling.input_amax_history.abs().max() == 0


def test_meta_device_then_to_empty():
    layer = mp.Fp8Linear(16, 16, bias=False, device="meta", recipe=mp.DelayedScaling()).to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.fill_(0.1)
        for buffer in layer.buffers():
            buffer.fill_(float("nan"))
    for _ in range(3):
        step(layer, 2.0)
    assert layer.scaling.input_quant_scale == scale_for(E4M3, 2.0)


def test_refuses_another_recipe():
    with pytest.raises(TypeError, match="recipe must be a DelayedScaling, got Float8CurrentScaling"):
        mp.DelayedScalingState(mp.Float8CurrentScaling())


def _train_on(rank, file, results):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    layer = layer_with(amax_history_len=2)
    for amax in (1.0, 2.0, 1.0):
        step(layer, amax * (1 + 3 * rank))
    results[rank] = (layer.scaling.input_quant_scale.item(), layer.scaling.input_amax_history.tolist())
    dist.destroy_process_group()


def test_replicas_agree_on_the_scales(tmp_path):
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_train_on, args=(os.fspath(tmp_path / "rendezvous"), results), nprocs=2)
        assert results[0][0] == results[1][0] == scale_for(E4M3, 8.0)
        assert results[0][1][1] == results[1][1][1] == 8.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fp8_format": mp.Format.E5M2}, ValueError, "training with E5M2 alone does not converge"),
        ({"fp8_format": "hybrid"}, TypeError, "fp8_format must be a mpkernels.Format, got 'hybrid'"),
        ({"margin": 0.5}, TypeError, "margin must be an int"),
        ({"margin": 100}, ValueError, "margin must be finite and >= -24 and <= 24, got 100"),
        ({"use_fast_accum": (True, False)}, ValueError, r"use_fast_accum must be three bools .* got \(True, False\)"),
    ],
)
@pytest.mark.parametrize("recipe", [mp.Float8CurrentScaling, mp.DelayedScaling])
def test_bad_recipes_are_refused(recipe, options, error, message):
    with pytest.raises(error, match=message):
        recipe(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"amax_history_len": 0}, ValueError, "amax_history_len must be an int >= 1, got 0"),
        ({"amax_compute_algo": "mean"}, ValueError, "amax_compute_algo must be .* got 'mean'"),
        ({"scaling_factor_compute_algo": 3}, TypeError, "scaling_factor_compute_algo must be None or a function, got 3"),
    ],
)
def test_bad_delayed_recipes_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        mp.DelayedScaling(**options)


def test_a_layer_used_twice_in_its_first_step_uses_current_scaling_for_both():
    twice, current = layer_with(), mp.Fp8Linear(16, 16, bias=False)
    with torch.no_grad():
        current.weight.copy_(twice.weight)
    for layer in (twice, current):
        x = torch.linspace(-1, 1, 64).view(4, 16)
        layer(layer(x)).backward(torch.full((4, 16), 1e-7))
    assert torch.equal(twice.weight.grad, current.weight.grad)
    assert twice.weight.grad.abs().max() > 0
