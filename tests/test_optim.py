"""mpkernels.optim: against torch.optim, with masters, scalers, schedulers and checkpoints."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import FP32
from mpkernels.testing import assert_matches

U = FP32.epsilon / 2  # the most one rounding errs by, relative
SHAPES = [(7, 5), (33,), (), (2, 3, 4)]
ADAMW = {"lr": 1e-2, "weight_decay": 0.1}
SGD = {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}
PAIRS = {
    "adamw": (mp.optim.AdamW, torch.optim.AdamW, ADAMW),
    "adamw maximize": (mp.optim.AdamW, torch.optim.AdamW, {**ADAMW, "maximize": True, "betas": (0.4, 0.9), "eps": 1e-3}),
    "adamw plain": (mp.optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.0}),
    "sgd": (mp.optim.SGD, torch.optim.SGD, {"lr": 1e-2}),
    "sgd momentum": (mp.optim.SGD, torch.optim.SGD, {**SGD, "dampening": 0.3}),
    "sgd nesterov": (mp.optim.SGD, torch.optim.SGD, {**SGD, "nesterov": True, "maximize": True}),
}
pairs = pytest.mark.parametrize(("ours", "torchs", "settings"), PAIRS.values(), ids=PAIRS)
optimizers = pytest.mark.parametrize(
    ("ours", "torchs", "settings"), [PAIRS["adamw"], PAIRS["sgd momentum"]], ids=["adamw", "sgd"]
)
low_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def parameters(dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def set_grads(params, seed, *, scale=1.0, dtype=None):
    """The same gradients for the same seed, whatever the dtype, if they fit it: they are BF16 values."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for p in params:
        grad = torch.randn(p.shape, generator=generator).bfloat16().to(p.dtype)
        p.grad = grad * scale


def train(optimizer, params, steps, *, start=0):
    for seed in range(start, start + steps):
        set_grads(params, seed)
        optimizer.step()


def snapshot(optimizer):
    """Copies of all tensors that a step may write."""
    tensors = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    for state in optimizer.state.values():
        tensors += [state[name].clone() for name in sorted(state)]
    return tensors


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_matches(a.detach(), b.detach())


def drift(settings, peer, steps, largest_grad):
    """How far two FP32 implementations may be apart after some steps: see docs/numerics.md."""
    lr = settings.get("lr", 1e-3)
    if "momentum" in settings or peer.numel() == 0 or settings == {"lr": 1e-2}:
        momentum, decay = settings.get("momentum", 0.0), settings.get("weight_decay", 0.0)
        reach = peer.abs() + lr * steps * largest_grad / (1 - momentum) * 2
        direction = (largest_grad + decay * reach) / (1 - momentum) * (1 + momentum)
        return 2 * U * steps * (reach + lr * direction * (12 + 5 / (1 - momentum)))
    ratio = 1.03 * math.sqrt(steps)
    reach = peer.abs() + steps * lr * ratio
    return 2 * U * steps * (3 * reach + lr * ratio * (33 + 2.5 * steps))


def assert_near(params, peers, settings, steps):
    for p, q in zip(params, peers, strict=True):
        assert ((p.detach().double() - q.detach().double()).abs() <= drift(settings, q.detach().double(), steps, 5.0)).all()


@pairs
def test_follows_torch(ours, torchs, settings):
    params, peers = parameters(), parameters()
    train(ours(params, **settings), params, 30)
    train(torchs(peers, **settings), peers, 30)
    assert_near(params, peers, settings, 30)


@pairs
@low_precision
def test_16_bit_parameters_are_the_rounded_fp32_training(ours, torchs, settings, dtype):
    params = parameters(dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    narrow_optimizer, wide_optimizer = ours(params, **settings), ours(wide, **settings)
    train(narrow_optimizer, params, 10)
    train(wide_optimizer, wide, 10)
    for p, q in zip(params, wide, strict=True):
        assert_matches(narrow_optimizer.state[p]["master"], q.detach())
        assert_matches(p.detach(), q.detach().to(dtype))
        assert all(state.dtype is torch.float32 for state in narrow_optimizer.state[p].values())
        assert "master" not in wide_optimizer.state[q]


@optimizers
@low_precision
def test_without_masters_each_step_rounds_once(ours, torchs, settings, dtype):
    params = parameters(dtype)
    optimizer = ours(params, master_weights=False, **settings)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    wide_optimizer = ours(wide, **settings)
    for seed in range(5):
        train(optimizer, params, 1, start=seed)
        train(wide_optimizer, wide, 1, start=seed)
        for p, q in zip(params, wide, strict=True):
            assert_matches(p.detach(), q.detach().to(dtype))
            q.data.copy_(p)
    assert not any("master" in state for state in optimizer.state.values())


def test_masters_are_dropped_when_switched_off():
    params = parameters(torch.bfloat16)
    optimizer = mp.optim.AdamW(params)
    train(optimizer, params, 1)
    optimizer.param_groups[0]["master_weights"] = False
    train(optimizer, params, 1)
    assert not any("master" in state for state in optimizer.state.values())


def test_small_steps_are_not_lost():
    """2^-9 * 2^-3 is below half an ulp of 1 in BF16: only a master remembers it."""
    for master_weights, expected in ((True, 1 - 16 * 2.0**-12), (False, 1.0)):
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = mp.optim.SGD([p], lr=2.0**-3, master_weights=master_weights)
        for _ in range(16):
            p.grad = torch.full_like(p, 2.0**-9)
            optimizer.step()
        assert (p == expected).all()


@optimizers
def test_mixed_dtypes_channels_last_and_frozen(ours, torchs, settings):
    params = [*parameters(torch.bfloat16), *parameters(torch.float32, seed=1), *parameters(torch.float16, seed=2)]
    params.append(torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)))
    wide = [torch.nn.Parameter(p.detach().float().contiguous()) for p in params]
    frozen = torch.nn.Parameter(torch.ones(3))
    optimizer = ours([*params, frozen], **settings)
    train(optimizer, params, 3)
    train(ours(wide, **settings), wide, 3)
    for p, q in zip(params, wide, strict=True):
        assert_matches(p.detach().contiguous(), q.detach().to(p.dtype))
    assert frozen.eq(1).all()
    assert frozen not in optimizer.state


@optimizers
@given(shapes=st.lists(st.lists(st.integers(0, 6), max_size=3).map(tuple), min_size=1, max_size=5))
def test_any_shapes(ours, torchs, settings, shapes):
    params, peers = parameters(shapes=shapes), parameters(shapes=shapes)
    train(ours(params, **settings), params, 2)
    train(torchs(peers, **settings), peers, 2)
    assert_near(params, peers, settings, 2)


@pytest.mark.parametrize("max_norm", [1e-2, 3.0, 1e4, math.inf])
def test_clips_as_clip_grad_norm(max_norm):
    """SGD, since AdamW hardly sees the size of gradients. The two norms differ by some roundings."""
    params, peers = parameters(), parameters()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = mp.optim.SGD(groups, lr=0.25, max_grad_norm=max_norm)
    peer_optimizer = torch.optim.SGD([{"params": peers[:2]}, {"params": peers[2:], "lr": 0.5}], lr=0.25)
    set_grads(params, 0)
    set_grads(peers, 0)
    grads = [p.grad.clone() for p in params]
    torch.nn.utils.clip_grad_norm_(peers, max_norm)
    optimizer.step()
    peer_optimizer.step()
    for p, q, grad in zip(params, peers, grads, strict=True):
        assert ((p - q).abs() <= U * (q.abs() * 2 + 0.5 * grad.abs() * 32)).all()
        assert_matches(p.grad, grad)  # clipped in registers only


def test_a_given_norm_is_used():
    params = parameters()
    optimizer = mp.optim.SGD(params, lr=0.25, max_grad_norm=1.0)
    set_grads(params, 0)
    expected = [p.detach() - 0.25 * (p.grad * torch.tensor(1.0).div(torch.tensor(7.0) + 1e-6)) for p in params]
    optimizer.grad_norm = torch.tensor(7.0)
    optimizer.step()
    assert_same(params, expected)


def test_one_group_clips():
    params, peers = parameters(), parameters()
    optimizer = mp.optim.SGD([{"params": params[:2], "max_grad_norm": 1e-3}, {"params": params[2:]}], lr=0.25)
    train(optimizer, params, 1)
    train(mp.optim.SGD(peers, lr=0.25), peers, 1)
    assert not torch.equal(params[0], peers[0])
    assert_same(params[2:], peers[2:])


SCHEDULERS = {
    "warmup": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
}


@optimizers
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers(ours, torchs, settings, scheduler, tensor_lr):
    params, peers = parameters(), parameters()
    lr = torch.tensor(1e-2) if tensor_lr else 1e-2
    optimizer, peer = ours(params, **{**settings, "lr": lr}), torchs(peers, **settings)
    schedule, peer_schedule = scheduler(optimizer), scheduler(peer)
    for seed in range(10):
        train(optimizer, params, 1, start=seed)
        train(peer, peers, 1, start=seed)
        schedule.step()
        peer_schedule.step()
    # A float32 learning rate is itself rounded at every step of the schedule.
    assert_near(params, peers, {**settings, "lr": 0.1}, 10)


@optimizers
def test_groups(ours, torchs, settings):
    params, peers = parameters(), parameters()

    def grouped(optimizer, some):
        made = optimizer([{"params": some[:1], "lr": 0.03}, {"params": some[1:3], "weight_decay": 0.0}], **settings)
        made.add_param_group({"params": some[3:], "maximize": True})
        return made

    train(grouped(ours, params), params, 5)
    train(grouped(torchs, peers), peers, 5)
    assert_near(params, peers, {**settings, "lr": 0.03}, 5)


def test_named_parameters_and_repr():
    layer = torch.nn.Linear(2, 3)
    optimizer = mp.optim.AdamW(layer.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert "master_weights: True" in repr(optimizer)


@optimizers
def test_closure_zero_grad_and_hooks(ours, torchs, settings):
    params = parameters(torch.bfloat16)
    optimizer = ours(params, **settings)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = sum(p.float().square().sum() for p in params)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    assert seen == ["after"] * 5
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


scalers = pytest.mark.parametrize("scaler_type", [torch.amp.GradScaler, mp.GradScaler], ids=["torch", "mpkernels"])


def scaled_step(scaler, optimizer, params, seed, *, bad=False, unscale=False):
    scaler.scale(torch.zeros(()))
    set_grads(params, seed, scale=scaler.get_scale())
    if bad:
        params[1].grad.view(-1)[3] = math.inf
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


@scalers
@optimizers
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("unscale", [False, True])
def test_loss_scaling(ours, torchs, settings, scaler_type, clip, unscale):
    """A power of two scales exactly, so the training is that without a scaler, bit for bit."""
    params, peers = parameters(torch.bfloat16), parameters(torch.bfloat16)
    optimizer = ours(params, max_grad_norm=clip, **settings)
    scaler = scaler_type("cpu", init_scale=2.0**10, growth_interval=2)
    for seed in range(5):
        scaled_step(scaler, optimizer, params, seed, unscale=unscale)
    peer = ours(peers, max_grad_norm=clip, **settings)
    train(peer, peers, 5)
    assert_same(snapshot(optimizer), snapshot(peer))
    assert not hasattr(optimizer, "grad_scale")
    assert scaler.get_scale() == 2.0**12


@scalers
@optimizers
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_skipped_step_leaves_every_byte(ours, torchs, settings, scaler_type, clip):
    params = parameters(torch.float16)
    optimizer = ours(params, max_grad_norm=clip, **settings)
    scaler = scaler_type("cpu", init_scale=4.0, growth_interval=10**6)
    before = [p.detach().clone() for p in params]
    scaled_step(scaler, optimizer, params, 0, bad=True)  # the very first: the state is born, and zero
    assert_same(params, before)
    for p in params:
        assert all(value.eq(0).all() for name, value in optimizer.state[p].items() if name != "master")
    scaled_step(scaler, optimizer, params, 1)
    trained = snapshot(optimizer)
    scaled_step(scaler, optimizer, params, 2, bad=True)
    assert_same(snapshot(optimizer), trained)
    scaled_step(scaler, optimizer, params, 3)

    peers = parameters(torch.float16)  # as if the skipped steps had not been
    peer = ours(peers, max_grad_norm=clip, **settings)
    for seed in (1, 3):
        train(peer, peers, 1, start=seed)
    assert_same(snapshot(optimizer), snapshot(peer))


@scalers
def test_a_scaler_without_gradients(scaler_type):
    params = parameters()
    optimizer = mp.optim.AdamW(params, max_grad_norm=1.0)
    before = snapshot(optimizer)
    scaler = scaler_type("cpu")
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    optimizer.step()
    assert_same(snapshot(optimizer), before)


@optimizers
def test_without_a_scaler_bad_gradients_are_used(ours, torchs, settings):
    for clip in (None, 1.0):
        params = parameters()
        optimizer = ours(params, max_grad_norm=clip, **settings)
        set_grads(params, 0)
        params[1].grad[3] = math.nan
        optimizer.step()
        assert params[1][3].isnan()
        assert params[0].isnan().all() == (clip is not None)  # the norm is NaN, as with clip_grad_norm_


@optimizers
def test_loaded_weights_reach_the_masters(ours, torchs, settings):
    """Where the parameter has changed the master is the new value; elsewhere it keeps its low bits."""
    params = parameters(torch.bfloat16)
    optimizer = ours(params, **settings)
    train(optimizer, params, 3)
    masters = [optimizer.state[p]["master"].clone() for p in params]
    with torch.no_grad():
        params[0][2:4] = 0.5
        params[3].copy_(params[3].clone())  # written, but with the same values
    optimizer.param_groups[0]["lr"] = 0.0  # the step then changes nothing but what it refreshes
    train(optimizer, params, 1)
    masters[0][2:4] = 0.5
    assert_same([optimizer.state[p]["master"] for p in params], masters)
    assert (params[0][2:4] == 0.5).all()

    params[1].data = torch.full_like(params[1], 2.0)  # other memory
    train(optimizer, params, 1)
    assert (optimizer.state[params[1]]["master"] == 2).all()

    params[2].data.fill_(-3.0)  # hidden from torch, so it must be said
    optimizer.refresh_masters()
    train(optimizer, params, 1)
    assert params[2] == -3


@optimizers
def test_autograd_sees_the_change(ours, torchs, settings):
    params = parameters(torch.bfloat16)
    optimizer = ours(params, **settings)
    loss = params[0].square().sum()
    train(optimizer, params, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@optimizers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_checkpoint_continues_bit_for_bit(ours, torchs, settings, dtype):
    params = parameters(dtype)
    optimizer = ours(params, max_grad_norm=0.5, **settings)
    train(optimizer, params, 3)
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = ours(resumed, lr=123.0, max_grad_norm=0.5)
    other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    assert_same(snapshot(other), snapshot(optimizer))
    train(optimizer, params, 3, start=3)
    train(other, resumed, 3, start=3)
    assert_same(snapshot(other), snapshot(optimizer))


@optimizers
def test_loading_copies_the_given_state(ours, torchs, settings):
    params = parameters()
    optimizer = ours(params, **settings)
    train(optimizer, params, 1)
    given = optimizer.state_dict()
    other_params = parameters()
    other = ours(other_params, **settings)
    other.load_state_dict(given)
    before = snapshot(optimizer)
    train(other, other_params, 1, start=1)
    assert_same(snapshot(optimizer), before)


@pairs
@pytest.mark.parametrize("fused", [None, True])
def test_state_of_torch_loads(ours, torchs, settings, fused):
    peers = parameters()
    peer = torchs(peers, fused=fused, **settings)
    train(peer, peers, 3)
    params = [torch.nn.Parameter(p.detach().clone()) for p in peers]
    optimizer = ours(params)
    optimizer.load_state_dict(saved_and_loaded(peer.state_dict()))
    train(peer, peers, 3, start=3)
    train(optimizer, params, 3, start=3)
    assert_near(params, peers, settings, 6)
    assert optimizer.param_groups[0]["master_weights"] is True
    assert optimizer.param_groups[0]["lr"] == settings.get("lr", 1e-3)


@pairs
def test_torch_loads_our_state(ours, torchs, settings):
    params = parameters()
    optimizer = ours(params, **settings)
    train(optimizer, params, 3)
    peers = [torch.nn.Parameter(p.detach().clone()) for p in params]
    peer = torchs(peers)
    peer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    train(peer, peers, 3, start=3)
    train(optimizer, params, 3, start=3)
    assert_near(params, peers, settings, 6)


@optimizers
def test_state_of_an_fp32_model_loads_into_a_bf16_model(ours, torchs, settings):
    peers = parameters()
    peer = torchs(peers, **settings)
    train(peer, peers, 3)
    params = [torch.nn.Parameter(p.detach().bfloat16()) for p in peers]
    optimizer = ours(params)
    optimizer.load_state_dict(peer.state_dict())
    for p, q in zip(params, peers, strict=True):
        for name, value in peer.state[q].items():
            assert_matches(optimizer.state[p][name], value)
    train(optimizer, params, 1)
    assert all(optimizer.state[p]["master"].dtype is torch.float32 for p in params)


def test_loading_runs_the_users_hooks_around_it():
    params = parameters(torch.bfloat16)
    optimizer = mp.optim.AdamW(params)
    train(optimizer, params, 1)
    given = optimizer.state_dict()
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {**state, "state": {0: state["state"][0]}})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append((len(o.state), o.state[params[0]]["exp_avg"].dtype)))
    optimizer.load_state_dict(given)
    assert seen == [(1, torch.float32)]
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == len(optimizer._optimizer_load_state_dict_post_hooks) == 1


@optimizers
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_continue_bit_for_bit(ours, torchs, settings, copier):
    params = parameters(torch.bfloat16)
    optimizer = ours(params, max_grad_norm=1.0, **settings)
    train(optimizer, params, 3)
    twin, twins = copier((optimizer, params))
    train(optimizer, params, 2, start=3)
    train(twin, twins, 2, start=3)
    assert_same(snapshot(twin), snapshot(optimizer))


def test_momentum_switched_on_later():
    params, peers = parameters(), parameters()
    optimizer, peer = mp.optim.SGD(params, lr=0.1), torch.optim.SGD(peers, lr=0.1)
    for seed, momentum in enumerate([0.0, 0.0, 0.9, 0.9]):
        optimizer.param_groups[0].update(momentum=momentum, dampening=0.5)
        peer.param_groups[0].update(momentum=momentum, dampening=0.5)
        train(optimizer, params, 1, start=seed)
        train(peer, peers, 1, start=seed)
    assert_near(params, peers, {"lr": 0.1, "momentum": 0.9}, 4)


REFUSED_SETTINGS = [
    (mp.optim.AdamW, {"lr": -1.0}, "lr must be finite and >= 0, got -1.0"),
    (mp.optim.AdamW, {"lr": math.nan}, "lr must be finite and >= 0, got nan"),
    (mp.optim.AdamW, {"lr": torch.ones(2)}, r"lr must be a number or a tensor of one element, got a tensor of shape \(2,\)"),
    (mp.optim.AdamW, {"betas": (1.0, 0.9)}, "beta1 must be >= 0 and < 1, got 1.0"),
    (mp.optim.AdamW, {"betas": (0.9, math.nan)}, "beta2 must be >= 0 and < 1, got nan"),
    (mp.optim.AdamW, {"eps": -1e-8}, "eps must be finite and >= 0, got -1e-08"),
    (mp.optim.AdamW, {"weight_decay": math.nan}, "weight_decay must be finite and >= 0, got nan"),
    (mp.optim.AdamW, {"max_grad_norm": 0.0}, "max_grad_norm must be > 0, or None for no clipping, got 0.0"),
    (mp.optim.SGD, {"max_grad_norm": math.nan}, "max_grad_norm must be > 0, or None for no clipping, got nan"),
    (mp.optim.SGD, {"momentum": -0.5}, "momentum must be finite and >= 0, got -0.5"),
    (mp.optim.SGD, {"dampening": math.inf}, "dampening must be finite, got inf"),
    (mp.optim.SGD, {"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0 and dampening 0"),
]


@pytest.mark.parametrize(("ours", "settings", "message"), REFUSED_SETTINGS)
def test_refuses_settings(ours, settings, message):
    with pytest.raises(ValueError, match=message):
        ours(parameters(), **settings)
    optimizer = ours(parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": parameters(), **settings})
    assert len(optimizer.param_groups) == 1


@optimizers
@pytest.mark.parametrize(
    ("param", "error", "message"),
    [
        (torch.ones(3, dtype=torch.float64), TypeError, r"params\[0\] must be one of .*got torch.float64"),
        (torch.ones(3, dtype=torch.complex64), TypeError, r"params\[0\] must be one of .*got torch.complex64"),
        (torch.ones(6)[::2], ValueError, r"params\[0\] must be dense without overlap, got shape \(3,\), strides \(2,\)"),
    ],
    ids=["float64", "complex", "strided"],
)
def test_refuses_parameters(ours, torchs, settings, param, error, message):
    with pytest.raises(error, match=message):
        ours([torch.nn.Parameter(param)], **settings)


@optimizers
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_refused_step_writes_nothing(ours, torchs, settings, clip):
    params = [*parameters(), torch.nn.Parameter(torch.ones(4, 2))]
    optimizer = ours([{"params": params[:2]}, {"params": params[2:]}], max_grad_norm=clip, **settings)
    train(optimizer, params, 1)
    before = snapshot(optimizer)
    set_grads(params, 1)
    params[-1].grad = params[-1].grad.to_sparse()
    with pytest.raises(TypeError, match=r"gradient of params\[2\] must be a dense tensor, got layout torch.sparse_coo"):
        optimizer.step()
    set_grads(params, 1)
    optimizer.param_groups[1]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr must be finite and >= 0, got nan"):
        optimizer.step()
    assert_same(snapshot(optimizer), before)


def test_refuses_states_that_do_not_fit():
    params = parameters()
    optimizer = mp.optim.AdamW(params)
    train(optimizer, params, 1)
    before = snapshot(optimizer)

    def state_of(other, some):
        train(other, some, 1)
        return other.state_dict()

    amsgrad = state_of(torch.optim.AdamW(parameters(), amsgrad=True), parameters())
    with pytest.raises(ValueError, match="amsgrad must be False, got True"):
        optimizer.load_state_dict(amsgrad)
    with pytest.raises(ValueError, match="decoupled_weight_decay must be True, got False"):
        optimizer.load_state_dict(torch.optim.Adam(parameters()).state_dict())
    some = parameters()
    with pytest.raises(ValueError, match="the state of parameter 0 has no exp_avg, only momentum_buffer"):
        optimizer.load_state_dict(state_of(torch.optim.SGD(some, momentum=0.5), some))
    some = parameters(shapes=[(1,)] * 4)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 must have shape \(7, 5\), got \(1,\)"):
        optimizer.load_state_dict(state_of(torch.optim.AdamW(some), some))
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(mp.optim.AdamW(parameters()[:2]).state_dict())
    assert_same(snapshot(optimizer), before)
