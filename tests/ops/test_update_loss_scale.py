"""update_loss_scale_: contract in mpkernels/ops/update_loss_scale/__init__.py."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.testing import assert_matches


def scalar(value, dtype=torch.float32, device="cpu"):
    return torch.tensor(value, dtype=dtype, device=device)


class State:
    """The tensors of one loss scaler."""

    def __init__(self, loss_scale, growth=0, patience=1, device="cpu"):
        self.device = device
        self.loss_scale = scalar(loss_scale, device=device)
        self.growth, self.patience = scalar(growth, torch.int32, device), scalar(patience, torch.int32, device)

    def update(self, found_inf, backend, *, growth=2.0, backoff=0.5, interval=3, hysteresis=1):
        found = scalar(found_inf, device=self.device)
        mp.update_loss_scale_(
            self.loss_scale, self.growth, self.patience, found, growth, backoff, interval, hysteresis, backend=backend
        )
        return self.loss_scale.item(), self.growth.item(), self.patience.item()


@pytest.mark.parametrize("seed", range(3))
def test_without_hysteresis_equals_torch_bit_for_bit(backend, device, seed, thinned):
    rng = random.Random(seed)
    ours, theirs = State(65536.0, device=device), State(65536.0, device=device)
    for _ in thinned(range(1500), 50):
        found = rng.choices([0.0, 1.0, 2.0, float("nan")], [20, 2, 1, 1])[0]
        growth, backoff, interval = rng.choice([(2.0, 0.5, 3), (1.1, 0.9, 1), (1e30, 0.3, 2), (2.0, 0.5, 0)])
        ours.update(found, backend, growth=growth, backoff=backoff, interval=interval)
        torch._amp_update_scale_(theirs.loss_scale, theirs.growth, scalar(found, device=device), growth, backoff, interval)
        assert_matches(ours.loss_scale, theirs.loss_scale)
        assert ours.growth.item() == theirs.growth.item()


def test_hysteresis_tolerates_bad_steps_in_a_row(backend, device):
    state = State(1024.0, patience=3, device=device)
    assert state.update(1.0, backend, hysteresis=3) == (1024.0, 0, 2)
    assert state.update(1.0, backend, hysteresis=3) == (1024.0, 0, 1)
    assert state.update(1.0, backend, hysteresis=3) == (512.0, 0, 0)
    assert state.update(1.0, backend, hysteresis=3) == (256.0, 0, 0)  # and then no more, until a clean step
    assert state.update(0.0, backend, hysteresis=3) == (256.0, 1, 3)
    assert state.update(1.0, backend, hysteresis=3) == (256.0, 0, 2)


def test_a_tolerated_bad_step_still_restarts_the_growth(backend, device):
    state = State(1024.0, growth=2, patience=2, device=device)
    assert state.update(1.0, backend, hysteresis=2) == (1024.0, 0, 1)
    assert state.update(0.0, backend, hysteresis=2) == (1024.0, 1, 2)


def test_growth_comes_after_the_interval_and_never_to_inf(backend, device):
    state = State(2.0**126, device=device)
    seen = [state.update(0.0, backend) for _ in range(9)]
    assert [s[0] for s in seen] == [2.0**126] * 2 + [2.0**127] * 7
    assert [s[1] for s in seen] == [1, 2, 0] * 3


def test_the_product_rounds_once_from_float64(backend, device):
    assert scalar(8388609 * 0.1) != scalar(8388609.0) * scalar(0.1)  # so this value tells float64 from float32
    assert State(8388609.0, device=device).update(1.0, backend, backoff=0.1)[0] == scalar(8388609 * 0.1).item()


@pytest.mark.parametrize("tracker", [-(2**31), -1, 0, 1])
def test_the_hysteresis_tracker_cannot_run_away(backend, device, tracker):
    assert State(8.0, patience=tracker, device=device).update(1.0, backend, hysteresis=2) == (4.0, 0, 0)


@given(
    loss_scale=st.floats(width=32),
    growth=st.integers(-5, 5),
    patience=st.integers(-3, 5),
    found_inf=st.sampled_from([0.0, -0.0, 1.0, 2.0, float("inf"), float("nan"), -1.0]),
    factors=st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300)),
    interval=st.integers(0, 5),
    hysteresis=st.integers(1, 5),
)
def test_any_state(loss_scale, growth, patience, found_inf, factors, interval, hysteresis):
    results = []
    for backend in (None, "reference"):
        state = State(loss_scale, growth, patience)
        state.update(found_inf, backend, growth=factors[0], backoff=factors[1], interval=interval, hysteresis=hysteresis)
        results.append(state)
    assert_matches(results[0].loss_scale, results[1].loss_scale)
    assert (results[0].growth, results[0].patience) == (results[1].growth, results[1].patience)


GOOD = {
    "loss_scale": scalar(8.0),
    "growth_tracker": scalar(0, torch.int32),
    "hysteresis_tracker": scalar(1, torch.int32),
    "found_inf": scalar(1.0),
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2,
    "hysteresis": 1,
}


@pytest.mark.parametrize(
    ("name", "value", "error", "sentence"),
    [
        ("loss_scale", torch.ones(1), TypeError, r"loss_scale must be .* shape \(\), got torch.float32 of shape \(1,\)"),
        ("growth_tracker", scalar(0), TypeError, r"growth_tracker must be an int32 tensor of shape \(\), got torch.float32"),
        ("hysteresis_tracker", scalar(0, torch.int64), TypeError, "hysteresis_tracker must be an int32 .* got torch.int64"),
        ("hysteresis_tracker", torch.zeros((), dtype=torch.int32, device="meta"), ValueError, "must be on cpu .* got meta"),
        ("found_inf", torch.zeros((), device="meta"), ValueError, "found_inf must be on cpu .* got meta"),
        ("growth_factor", float("inf"), ValueError, "growth_factor must be finite and > 0, got inf"),
        ("growth_factor", float("nan"), ValueError, "growth_factor must be finite and > 0, got nan"),
        ("backoff_factor", 0.0, ValueError, "backoff_factor must be finite and > 0, got 0"),
        ("growth_interval", -1, ValueError, "growth_interval must be finite and >= 0, got -1"),
        ("hysteresis", 0, ValueError, "hysteresis must be finite and >= 1 .*, got 0"),
        ("hysteresis", 2**31, ValueError, "hysteresis must be .* got 2147483648"),
    ],
)
def test_refusals_write_nothing(name, value, error, sentence):
    args = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in GOOD.items()} | {name: value}
    with pytest.raises(error, match=sentence):
        mp.update_loss_scale_(**args)
    assert all(torch.equal(args[k], v) for k, v in GOOD.items() if isinstance(v, torch.Tensor) and k != name)


def test_says_why_the_cpu_backend_does_not_run():
    args = [v.to("meta") if isinstance(v, torch.Tensor) else v for v in GOOD.values()]
    assert mp.explain("update_loss_scale_", *args)["cpu"] == "loss_scale is on meta, not on the CPU"


def test_opcheck(backend):
    torch.library.opcheck(torch.ops.mpkernels.update_loss_scale_.default, tuple(GOOD.values()), {"backend": backend})


def test_compiles_to_one_graph():
    def step(loss_scale, growth, patience, found_inf):
        mp.update_loss_scale_(loss_scale, growth, patience, found_inf, 2.0, 0.5, 2, 1)
        return loss_scale * 2

    state = State(8.0)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert compiled(state.loss_scale, state.growth, state.patience, scalar(1.0)).item() == 8.0
    assert state.loss_scale.item() == 4.0
