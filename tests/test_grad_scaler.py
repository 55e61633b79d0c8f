"""GradScaler: the same training as torch.amp.GradScaler, and what it adds."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mp
from mpkernels.testing import assert_matches

INF = float("inf")


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3, bias=False))


def state_of(scaler):
    state = scaler.state_dict()
    return {name: state[name] for name in ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")}


def train(scaler, make_optimizers, *, steps=12, bad_steps=(2, 3, 7), clip=None, new_scales=()):
    """Trains with Inf put into one gradient at the bad steps; returns the scaler's state after each step, and the parameters."""
    model, states = make_model(), []
    optimizers = make_optimizers(model)
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        scaler.scale(model(x).square().mean()).backward()
        if step in bad_steps:
            model[-1].weight.grad[1, 2] = INF if step % 2 else float("nan")
        for optimizer in optimizers:
            if clip is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
            scaler.step(optimizer)
        scaler.update(dict(new_scales).get(step))
        states.append(state_of(scaler))
    return states, list(model.parameters())


OPTIMIZERS = {
    "sgd": lambda model: [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)],
    "adamw": lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01)],
    "fused adamw": lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)],
    "two": lambda model: [
        torch.optim.SGD(model[0].parameters(), lr=0.1),
        torch.optim.SGD(model[2].parameters(), lr=0.2, fused=True),
    ],
}


@pytest.mark.parametrize("clip", [None, 0.01], ids=["", "clip"])
@pytest.mark.parametrize("optimizers", OPTIMIZERS)
def test_trains_exactly_as_torch(optimizers, clip):
    scalers = [cls("cpu", 1024.0, 3.0, 0.25, 2) for cls in (torch.amp.GradScaler, mp.GradScaler)]
    new_scales = ((5, 64.0), (9, torch.tensor(8.0)))
    theirs, ours = (train(s, OPTIMIZERS[optimizers], clip=clip, new_scales=new_scales) for s in scalers)
    assert theirs[0] == ours[0]
    assert len({s["scale"] for s in ours[0]}) > 4
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert_matches(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_train_as_torch(dtype):
    def run(scaler):
        weights = [torch.nn.Parameter(torch.arange(4.0, dtype=d)) for d in (torch.float32, dtype)]
        optimizer = torch.optim.SGD(weights, lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(sum((w * (w - step)).sum() for w in weights)).backward()
            if step == 2:
                weights[1].grad[0] = INF
            scaler.step(optimizer)
            scaler.update()
        return state_of(scaler), weights

    (state, ours), (expected, theirs) = run(mp.GradScaler("cpu", 8.0)), run(torch.amp.GradScaler("cpu", 8.0))
    assert state == expected
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("bad", [False, True])
def test_sparse_gradients_train_as_torch(bad):
    def run(scaler):
        embedding = torch.nn.Embedding(5, 3, sparse=True)
        torch.nn.init.ones_(embedding.weight)
        optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
        factor = torch.tensor(INF if bad else 1.0)
        scaler.scale((embedding(torch.tensor([1, 1, 4])) * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale(), embedding.weight.detach()

    (scale, ours), (expected, theirs) = run(mp.GradScaler("cpu", 8.0)), run(torch.amp.GradScaler("cpu", 8.0))
    assert scale == expected
    assert_matches(ours, theirs)
    assert (ours[1] == 1).all() == bad


def test_finds_the_overflow_of_a_sparse_float16_sum():
    optimizer, scaler = clipping_optimizer(torch.zeros(3).half()), ready_scaler()
    param = optimizer.param_groups[0]["params"][0]
    param.grad = torch.sparse_coo_tensor([[1, 1]], torch.tensor([6e4, 6e4]).half(), (3,), check_invariants=True)
    scaler.step(optimizer)
    assert optimizer.seen["found_inf"].item() == 1.0
    assert param.grad.is_coalesced()


def test_is_a_torch_scaler():
    assert isinstance(mp.GradScaler("cpu"), torch.amp.GradScaler)


# What a user can do wrong, each as (what is done with a fresh scaler, a ready optimizer, and its class).


def scaled(scaler, optimizer):
    scaler.scale(torch.ones(1)).sum()
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)


def misuse_update_without_scale(scaler, optimizer, cls):
    scaler.update()


def misuse_step_without_scale(scaler, optimizer, cls):
    scaler.step(optimizer)


def misuse_unscale_without_scale(scaler, optimizer, cls):
    scaler.unscale_(optimizer)


def misuse_update_without_step(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.update()


def misuse_unscale_twice(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)


def misuse_unscale_after_step(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.step(optimizer)
    scaler.unscale_(optimizer)


def misuse_step_twice(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.step(optimizer)
    scaler.step(optimizer)


def misuse_closure(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.step(optimizer, closure=lambda: 0)


def misuse_no_gradients(scaler, optimizer, cls):
    scaler.scale(torch.ones(1))
    scaler.step(optimizer)


def misuse_float16_gradients(scaler, optimizer, cls):
    scaler.scale(torch.ones(1))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2).half())]})
    optimizer.param_groups[1]["params"][0].grad = torch.ones(2).half()
    scaler.step(optimizer)


def misuse_pickle_within_an_iteration(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.unscale_(optimizer)
    pickle.dumps(scaler)


def misuse_empty_state_dict(scaler, optimizer, cls):
    scaler.load_state_dict({})


def misuse_new_scale_of_two_elements(scaler, optimizer, cls):
    scaled(scaler, optimizer)
    scaler.update(torch.ones(2))


def misuse_growth_factor(scaler, optimizer, cls):
    cls("cpu", growth_factor=1.0)


def misuse_backoff_factor(scaler, optimizer, cls):
    cls("cpu", backoff_factor=1.0)


MISUSES = [f for name, f in list(globals().items()) if name.startswith("misuse_")]


@pytest.mark.parametrize("misuse", MISUSES, ids=lambda f: f.__name__.removeprefix("misuse_"))
def test_refuses_as_torch_does(misuse):
    raised = []
    for cls in (torch.amp.GradScaler, mp.GradScaler):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        with pytest.raises((RuntimeError, AssertionError, ValueError)) as info:
            misuse(cls("cpu"), optimizer, cls)
        raised.append((info.type, str(info.value)))
    assert raised[0] == raised[1]


def test_refuses_a_parameter_that_is_no_tensor():
    optimizer, scaler = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), mp.GradScaler("cpu")
    scaled(scaler, optimizer)
    optimizer.param_groups[0]["params"].append("weight")
    with pytest.raises(AssertionError, match=r"expected param to be torch\.Tensor, got str"):
        scaler.unscale_(optimizer)


@pytest.mark.parametrize("hysteresis", [0, -1, 2**31])
def test_refuses_a_hysteresis_out_of_range(hysteresis):
    with pytest.raises(ValueError, match="hysteresis must be finite and >= 1"):
        mp.GradScaler("cpu", hysteresis=hysteresis)


def run_steps(scaler, bad_steps, steps):
    scales, weight = [], torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (INF if step in bad_steps else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales, -weight[0].item()  # each step taken subtracts 1


def test_hysteresis_tolerates_bad_steps_in_a_row():
    scales, taken = run_steps(mp.GradScaler("cpu", 64.0, hysteresis=3), bad_steps=(0, 1, 3, 4, 5, 6), steps=8)
    assert scales == [64, 64, 64, 64, 64, 32, 16, 16]
    assert taken == 2  # bad steps are skipped whether or not the scale shrinks


def test_hysteresis_counts_an_update_once_for_several_optimizers():
    scaler, weights = mp.GradScaler("cpu", 64.0, hysteresis=2), [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], lr=1.0) for w in weights]
    for expected in (64.0, 32.0):
        scaler.scale((weights[0] * INF + weights[1] * INF).sum()).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == expected


def test_state_dict_goes_both_ways_and_continues_alike():
    for source, target in [(torch.amp.GradScaler, mp.GradScaler), (mp.GradScaler, torch.amp.GradScaler), (mp.GradScaler,) * 2]:
        scaler, copy = source("cpu", 64.0, growth_interval=4), target("cpu")
        run_steps(scaler, bad_steps=(1,), steps=4)
        copy.load_state_dict(scaler.state_dict())
        assert state_of(copy) == state_of(scaler)
        assert run_steps(copy, (2,), 5) == run_steps(scaler, (2,), 5)
        copy.load_state_dict(scaler.state_dict())  # now that its tensors exist
        assert state_of(copy) == state_of(scaler)
        assert run_steps(copy, (), 3) == run_steps(scaler, (), 3)


@pytest.mark.parametrize("warm", [False, True])
def test_state_dict_and_pickle_keep_the_hysteresis(warm):
    scaler, loaded = mp.GradScaler("cpu", 64.0, hysteresis=3), mp.GradScaler("cpu")
    run_steps(scaler, bad_steps=(0, 1), steps=2)
    if warm:
        run_steps(loaded, bad_steps=(), steps=1)
    loaded.load_state_dict(scaler.state_dict())
    for copy in (loaded, pickle.loads(pickle.dumps(scaler)), pickle.loads(pickle.dumps(loaded))):
        assert copy.state_dict() == scaler.state_dict()
        assert run_steps(copy, bad_steps=(0,), steps=1)[0] == [32.0]


@pytest.mark.parametrize("warm", [False, True])
def test_a_state_dict_of_torch_restarts_the_hysteresis(warm):
    scaler = mp.GradScaler("cpu", hysteresis=2)
    if warm:
        run_steps(scaler, bad_steps=(0,), steps=1)
    scaler.load_state_dict(torch.amp.GradScaler("cpu", 64.0).state_dict())
    assert run_steps(scaler, bad_steps=(0, 1), steps=2)[0] == [64.0, 32.0]


def test_disabled_is_plain_training():
    scaler = mp.GradScaler("cpu", enabled=False, hysteresis=2)
    scales, taken = run_steps(scaler, bad_steps=(), steps=3)
    assert (scales, taken) == ([1.0] * 3, 3)
    assert scaler.state_dict() == {}
    scaler.load_state_dict({"scale": 2.0})
    assert not pickle.loads(pickle.dumps(scaler)).is_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_warns_and_disables_without_cuda():
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not mp.GradScaler().is_enabled()


class Recorder(torch.optim.SGD):
    """An optimizer that keeps the protocol of GradScaler.step, and notes what it was given."""

    _step_supports_amp_scaling = True

    def __init__(self, params, *, max_grad_norm=None, fails=False):
        super().__init__(params, lr=1.0)
        self.fails = fails
        self.param_groups[0]["max_grad_norm"] = max_grad_norm

    def step(self, closure=None):
        self.seen = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf", "grad_norm")}
        if self.fails:
            raise RuntimeError("step failed")


def clipping_optimizer(*grads, **options):
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    return Recorder(params, **{"max_grad_norm": 1.0} | options)


def ready_scaler(scale=4.0, device="cpu"):
    scaler = mp.GradScaler(device, scale)
    scaler.scale(torch.ones((), device=device))
    return scaler


def test_leaves_the_norm_for_an_optimizer_that_clips():
    grads = [torch.tensor([12.0, 0.0]), torch.tensor([[-16.0]]).bfloat16()]
    optimizer, scaler = clipping_optimizer(*(g.clone() for g in grads)), ready_scaler()
    scaler.step(optimizer)
    assert_matches(optimizer.seen["grad_norm"], torch.tensor(5.0))
    assert_matches(optimizer.seen["grad_scale"], torch.tensor(4.0))
    assert_matches(optimizer.seen["found_inf"], torch.tensor(0.0))
    assert not any(hasattr(optimizer, name) for name in optimizer.seen)
    for param, grad in zip(optimizer.param_groups[0]["params"], grads, strict=True):
        assert_matches(param.grad, grad)


def test_the_norm_counts_a_grad_scale_set_by_the_user():
    optimizer, scaler = clipping_optimizer(torch.tensor([24.0, 32.0])), ready_scaler()
    optimizer.grad_scale = torch.tensor(2.0)
    scaler.step(optimizer)
    assert optimizer.seen["grad_scale"].item() == 8.0
    assert optimizer.seen["grad_norm"].item() == 5.0


def test_tells_of_inf_without_skipping_the_step():
    optimizer, scaler = clipping_optimizer(torch.tensor([1.0, INF])), ready_scaler()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.seen["found_inf"].item() == 1.0
    assert optimizer.seen["grad_norm"].item() == INF
    assert scaler.get_scale() == 2.0


def test_finds_what_a_loss_scale_below_one_makes_infinite():
    for optimizer in (clipping_optimizer(torch.full((3,), 3e38)), torch.optim.SGD([torch.nn.Parameter(torch.ones(3))])):
        scaler = ready_scaler(0.5)
        optimizer.param_groups[0]["params"][0].grad = torch.full((3,), 3e38)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 0.25


def test_no_norm_after_an_explicit_unscale():
    optimizer, scaler = clipping_optimizer(torch.tensor([12.0])), ready_scaler()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert optimizer.seen["grad_norm"] is None
    assert optimizer.seen["grad_scale"] is None
    assert optimizer.param_groups[0]["params"][0].grad.item() == 3.0


def test_no_norm_for_gradients_it_did_not_read():
    optimizer, scaler = clipping_optimizer(torch.ones(2), torch.ones(2).double()), ready_scaler()
    scaler.step(optimizer)
    assert optimizer.seen["grad_norm"] is None


def test_no_norm_for_other_optimizers():
    optimizer, scaler = clipping_optimizer(torch.ones(2), max_grad_norm=None), ready_scaler()
    scaler.step(optimizer)
    assert optimizer.seen["grad_norm"] is None


def test_takes_the_norm_away_when_the_step_fails():
    optimizer, scaler = clipping_optimizer(torch.ones(2), fails=True), ready_scaler()
    with pytest.raises(RuntimeError, match="step failed"):
        scaler.step(optimizer)
    assert not hasattr(optimizer, "grad_norm")


def test_float16_gradients_are_for_optimizers_that_unscale_themselves():
    optimizer, scaler = clipping_optimizer(torch.tensor([12.0]).half()), ready_scaler()
    scaler.step(optimizer)
    assert optimizer.seen["grad_norm"].item() == 3.0


def test_never_asks_the_device_for_a_value():
    # A meta tensor has no value to ask for: item(), bool() and the like raise
    params = [torch.zeros(3, device="meta", dtype=t) for t in (torch.float32, torch.float16)]
    scaler = ready_scaler(device="meta")
    for unscale in (False, True):
        grads = [p.clone() for p in params[: 1 if unscale else 2]]
        optimizer = clipping_optimizer(*grads)
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.seen["found_inf"].is_meta


def test_reads_no_value_back_on_the_cpu_either():
    class Guard(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default, "a host sync"
            return func(*args, **kwargs or {})

    optimizer, scaler = clipping_optimizer(torch.ones(3)), ready_scaler()
    with Guard():
        scaler.step(optimizer)
        scaler.update()
    with Guard(), pytest.raises(AssertionError, match="a host sync"):
        scaler.get_scale()


def test_distributed_tensors_go_to_torch():
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, scaler = init_device_mesh("cpu", (1,)), ready_scaler()
        for bad in (False, True):
            weight = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
            weight.grad = distribute_tensor(torch.tensor([4.0, 8.0, 4.0, INF if bad else 4.0]), mesh, [Shard(0)])
            scaler.step(torch.optim.SGD([weight], lr=1.0))
            assert weight.full_tensor().tolist() == ([1.0] * 4 if bad else [0.0, -1.0, 0.0, 0.0])
            scaler.update()
        assert scaler.get_scale() == 2.0
    finally:
        distributed.destroy_process_group()
