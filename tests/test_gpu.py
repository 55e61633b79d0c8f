"""On a real GPU: a training step of ops captured in a CUDA graph, and replayed on new data. `make test-gpu` runs it."""

from __future__ import annotations

import functools

import pytest
import torch

import mpkernels as mp
from mpkernels import native, tuning
from mpkernels.testing import assert_matches, bits_of

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
N, K, M = 256, 512, 384


def step(x: torch.Tensor, weight: torch.Tensor, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Quantise, multiply, unscale the gradient and update the weight, all that exists on the GPU and without a host read."""
    q = mp.quantize_current(x, transpose=True)
    w = mp.quantize_current(weight)
    out = mp.scaled_mm(q.q, w.q, q.dequant_scale, w.dequant_scale)
    grad = (out.float().t() @ x.float() * state["loss_scale"]).bfloat16()
    mp.unscale_and_check_([grad], state["loss_scale"].reciprocal(), state["found_inf"])
    lists = [state["master"]], [state["momentum"]], [state["step"]], [weight], [grad]
    mp.sgd_update_(*lists, 1e-3, 0.9, 0.0, 0.0, found_inf=state["found_inf"])
    return {"out": out, "q": q.q.view(torch.uint8), "q_t": q.q_t.view(torch.uint8)}


def fresh(device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    weight = torch.randn(N, K, device=device).bfloat16()
    scalars = {"loss_scale": 8.0, "found_inf": 0.0, "step": 0.0}
    state = {name: torch.tensor(value, device=device) for name, value in scalars.items()}
    state |= {"master": weight.float(), "momentum": torch.zeros(N, K, device=device)}
    return torch.randn(M, K, device=device).bfloat16(), weight, state


def test_the_step_trains_where_there_is_no_gpu():
    x, weight, state = fresh("cpu")
    before = weight.clone()
    assert step(x, weight, state)["out"].isfinite().all()
    assert (weight != before).any()
    assert state["found_inf"] == 0


@on_a_gpu
def test_a_step_is_captured_and_replayed():
    x, weight, state = fresh()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(x, weight.clone(), {name: t.clone() for name, t in state.items()})
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, weight, state)
    eager_x, eager_weight, eager_state = fresh()
    for turn in range(3):
        new = torch.randn(M, K, generator=torch.Generator().manual_seed(turn)).bfloat16()
        x.copy_(new)
        eager_x.copy_(new)
        graph.replay()
        expected = step(eager_x, eager_weight, eager_state)
        for name, tensor in expected.items():
            assert torch.equal(captured[name], tensor), (turn, name)
        assert torch.equal(bits_of(weight), bits_of(eager_weight))


@on_a_gpu
def test_ops_run_on_the_current_stream():
    """Work queued behind a long kernel on a side stream sees that kernel's result."""
    side = torch.cuda.Stream()
    x = torch.zeros(1 << 22, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x.fill_(3.0)
        amax = mp.amax(x, backend="cuda")
    side.synchronize()
    assert_matches(amax, torch.tensor(3.0))


@on_a_gpu
def test_results_do_not_change_from_run_to_run():
    x = torch.randn(4096, 4096, device="cuda").bfloat16()
    first = mp.quantize_current(x, transpose=True, backend="cuda")
    for _ in range(20):
        again = mp.quantize_current(x, transpose=True, backend="cuda")
        assert torch.equal(bits_of(first.q), bits_of(again.q))
        assert torch.equal(bits_of(first.q_t), bits_of(again.q_t))
        assert first.quant_scale == again.quant_scale


@on_a_gpu
def test_the_device_is_described():
    architecture, sm_count, l2_bytes, *_ = native.cuda.device_facts(torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(0)
    assert (architecture, sm_count) == (10 * properties.major + properties.minor, properties.multi_processor_count)
    assert l2_bytes == properties.L2_cache_size


@on_a_gpu
def test_tuning_measures_and_changes_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("MPKERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "kept", functools.cache(tuning.kept.__wrapped__))
    q = mp.quantize_current(torch.randn(N, K, device="cuda").bfloat16())
    call = q.q, q.q, q.dequant_scale, q.dequant_scale
    before = mp.scaled_mm(*call, backend="triton")
    assert all(time > 0 for time in mp.tune("scaled_mm", *call).values())
    assert len(tuning.kept()) == 1
    assert_matches(mp.scaled_mm(*call, backend="triton"), before)
