"""sgd_update_: contract in mpkernels/ops/sgd_update/__init__.py."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from update_inputs import (
    COPY_DTYPES,
    GRAD_DTYPES,
    SHAPES,
    assert_equals_definition,
    assert_same_lists,
    assert_writes_amaxes,
    broken_masters,
    randn,
    run_guarded,
    specials,
    steps_of,
)

import mpkernels as mp
from mpkernels.formats import FP32
from mpkernels.testing import assert_matches, strided_views

HYPER = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.05}
PLAIN = {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.05}
NESTEROV = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": True}
DEVICE_SCALARS = {"inv_loss_scale": torch.tensor(2.0**-7), "grad_norm": torch.tensor(3.0), "max_grad_norm": 1.5}
U = FP32.epsilon / 2  # the most one rounding errs by, relative
dtypes = pytest.mark.parametrize(
    ("grad_dtype", "copy_dtype"), list(itertools.product(GRAD_DTYPES, COPY_DTYPES)), ids=lambda d: str(d).split(".")[-1]
)
kinds = pytest.mark.parametrize("hyper", [HYPER, PLAIN, NESTEROV], ids=["momentum", "plain", "nesterov"])


def inputs(shapes, hyper, grad_dtype=torch.bfloat16, copy_dtype=torch.bfloat16, *, counts=None, seed=0):
    """masters, momentum_buffers, steps, params, grads."""
    masters = randn(shapes, torch.float32, seed)
    buffers = randn(shapes, torch.float32, seed + 1) if hyper["momentum"] else []
    steps = steps_of(counts if counts is not None else [7.0] * len(shapes))
    params = [] if copy_dtype is None else [torch.zeros_like(master, dtype=copy_dtype) for master in masters]
    return [masters, buffers, steps, params, randn(shapes, grad_dtype, seed + 2)]


@pytest.mark.spread
@kinds
@dtypes
def test_equals_the_definition(backend, device, grad_dtype, copy_dtype, hyper):
    lists = inputs(SHAPES, hyper, grad_dtype, copy_dtype)
    assert_equals_definition(mp.sgd_update_, lists, backend, device, **hyper, **DEVICE_SCALARS)


@kinds
@pytest.mark.parametrize("maximize", [False, True])
def test_each_tensor_has_its_own_step(backend, device, hyper, maximize):
    lists = inputs([(40,)] * 4, hyper, counts=[0, 1, 5, 2**24])
    _, _, steps, _ = assert_equals_definition(mp.sgd_update_, lists, backend, device, **hyper, maximize=maximize)
    assert [step.item() for step in steps] == [1, 2, 6, 2**24]


def test_first_momentum_is_the_gradient_whatever_the_buffer_holds(backend, device):
    lists = inputs([(40,)], {**HYPER, "weight_decay": 0.0}, torch.float32, counts=[0])
    lists[1][0].fill_(float("nan"))
    _, buffers, _, _ = run_guarded(mp.sgd_update_, lists, device, **{**HYPER, "weight_decay": 0.0}, backend=backend)
    assert_matches(buffers[0], lists[4][0])


@kinds
@dtypes
def test_special_values(backend, device, grad_dtype, copy_dtype, hyper):
    masters = [specials(torch.float32, shift=shift) for shift in range(0, 30, 6)]
    lists = inputs([m.shape for m in masters], hyper, grad_dtype, copy_dtype, counts=[0, 1, 2, 3, 4])
    lists[0] = masters
    if hyper["momentum"]:
        lists[1] = [specials(torch.float32, shift=2 * i) for i in range(5)]
    lists[4] = [specials(grad_dtype, shift=5 * i) for i in range(5)]
    assert_equals_definition(mp.sgd_update_, lists, backend, device, **hyper)


@pytest.mark.parametrize("norm", [0.0, 1.5, 1e30, float("inf"), float("nan")])
def test_clips(backend, device, norm):
    clip = {"grad_norm": torch.tensor(norm), "max_grad_norm": 1.5}
    assert_equals_definition(mp.sgd_update_, inputs([(70,)], HYPER), backend, device, **HYPER, **clip)


def test_lr_tensor_replaces_lr(backend, device):
    lists = inputs([(70,)], HYPER)
    rate = torch.tensor(0.03)
    given_tensor = assert_equals_definition(mp.sgd_update_, lists, backend, device, **HYPER, lr_tensor=rate)
    given_number = run_guarded(mp.sgd_update_, lists, device, **{**HYPER, "lr": rate.item()}, backend=backend)
    assert_same_lists(given_tensor, given_number)


@kinds
@pytest.mark.parametrize("flag", [1.0, float("nan")])
def test_found_inf_leaves_every_byte(backend, device, flag, hyper):
    lists = inputs(SHAPES, hyper, counts=[0] * len(SHAPES))
    lists[0][3].fill_(float("nan"))
    after = run_guarded(mp.sgd_update_, lists, device, **hyper, found_inf=torch.tensor(flag), backend=backend)
    assert_same_lists(after, lists[:-1])


def test_found_inf_zero_updates(backend, device):
    lists = inputs([(70,)], HYPER)
    with_flag = run_guarded(mp.sgd_update_, lists, device, **HYPER, found_inf=torch.tensor(0.0), backend=backend)
    assert_same_lists(with_flag, run_guarded(mp.sgd_update_, lists, device, **HYPER, backend=backend))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_copy_is_the_rounded_master(backend, device, dtype):
    lists = inputs([(5000,)], HYPER, copy_dtype=dtype)
    lists[0][0] *= 40000  # some masters are beyond float16
    masters, _, _, params = run_guarded(mp.sgd_update_, lists, device, **HYPER, backend=backend)
    assert_matches(params[0], masters[0].to(dtype))


copies = pytest.mark.parametrize("copy_dtype", COPY_DTYPES, ids=str)


@pytest.mark.spread
@kinds
@copies
def test_amaxes_of_the_parameters(backend, device, copy_dtype, hyper):
    lists = inputs(SHAPES, hyper, copy_dtype or torch.float32, copy_dtype)
    assert_writes_amaxes(mp.sgd_update_, lists, backend, device, **hyper, **DEVICE_SCALARS)


@pytest.mark.spread
@copies
def test_amaxes_of_broken_parameters(backend, device, copy_dtype):
    lists = inputs([(70,)] * 6, NESTEROV, copy_dtype=copy_dtype)
    lists[0] = broken_masters(lists[0])
    assert_writes_amaxes(mp.sgd_update_, lists, backend, device, **{**NESTEROV, "lr": 0.0})


@pytest.mark.spread
@kinds
def test_found_inf_leaves_the_amaxes(backend, device, hyper):
    assert_writes_amaxes(mp.sgd_update_, inputs(SHAPES, hyper), backend, device, **hyper, found_inf=torch.tensor(1.0))


@kinds
def test_strides(backend, device, hyper):
    views = [grad for _, grad in strided_views((13, 37), torch.bfloat16)]
    lists = inputs([(13, 37)] * len(views), hyper)
    lists[4] = views
    assert_equals_definition(mp.sgd_update_, lists, backend, device, **hyper)
    transposed = [[t.t().contiguous().t() if t.dim() else t for t in tensors] for tensors in lists[:-1]]
    after = assert_equals_definition(mp.sgd_update_, [*transposed, views], backend, device, **hyper)
    expected = run_guarded(mp.sgd_update_, lists, device, **hyper, backend=backend)
    for tensors, wanted in zip(after, expected, strict=True):
        for tensor, want in zip(tensors, wanted, strict=True):
            assert_matches(tensor, want)


@pytest.mark.parametrize("offset", [0, 1])
def test_long_lists_stream_the_copy(backend, device, offset, not_emulated):
    """From 2^22 elements on; a copy that begins at an odd address cannot be streamed."""
    size = 2**22 - 1000
    lists = inputs([(size,), (1777,)], HYPER)
    buffers = [torch.full((tensor.numel() + 16,), 7.0, dtype=torch.bfloat16, device=device) for tensor in lists[3]]
    views = [buffer[8 + offset : 8 + offset + tensor.numel()] for buffer, tensor in zip(buffers, lists[3], strict=True)]
    plain = [[tensor.to(device) for tensor in some] for some in lists]
    tensors = [[tensor.clone() for tensor in some] for some in plain]
    mp.sgd_update_(*tensors[:3], views, tensors[-1], **HYPER, backend=backend)
    for master, view, buffer in zip(tensors[0], views, buffers, strict=True):
        assert_matches(view, master.bfloat16())
        assert (buffer[: 8 + offset] == 7).all()
        assert (buffer[8 + offset + master.numel() :] == 7).all()
    mp.sgd_update_(*plain, **HYPER, backend="reference")
    assert_same_lists(tensors[:3], plain[:3])


def test_more_tensors_than_a_table_of_4_kb(backend, device):
    shapes = [(i % 7,) for i in range(160)]
    lists = inputs(shapes, HYPER, counts=[i % 3 for i in range(160)])
    assert_equals_definition(mp.sgd_update_, lists, backend, device, **HYPER, **DEVICE_SCALARS)


def test_no_tensors(backend):
    mp.sgd_update_([], [], [], [], [], **HYPER, backend=backend)


@pytest.mark.spread
@kinds
@pytest.mark.parametrize("count", [0, 1])
def test_one_step_of_torch_in_float64(backend, device, count, hyper):
    """At most 12 roundings lie on the way of any term to the update, 1 on that of p (docs/numerics.md)."""
    lists = inputs([(20_000,)], hyper, torch.float32, None, counts=[count])
    masters, buffers, _, _, grads = lists
    peer = torch.nn.Parameter(masters[0].double())
    peer.grad = grads[0].double()
    torch_sgd = torch.optim.SGD([peer], **hyper)
    if count and buffers:
        torch_sgd.state[peer] = {"momentum_buffer": buffers[0].double()}
    torch_sgd.step()
    after = run_guarded(mp.sgd_update_, lists, device, **hyper, backend=backend)

    terms = grads[0].double().abs() + hyper["weight_decay"] * masters[0].double().abs()
    momentum = hyper["momentum"]
    averaged = momentum * buffers[0].double().abs() + (1 - hyper["dampening"]) * terms if count and buffers else terms
    direction = terms + momentum * averaged if hyper.get("nesterov") else averaged
    bound = U * (12 * hyper["lr"] * direction + peer.detach().abs())
    assert ((after[0][0].cpu().double() - peer.detach()).abs() <= bound).all()


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=6),
    grad_dtype=st.sampled_from(GRAD_DTYPES),
    copy_dtype=st.sampled_from(COPY_DTYPES),
    lr=st.floats(0, 10),
    momentum=st.floats(0, 2),
    dampening=st.floats(-1, 1),
    weight_decay=st.floats(0, 10),
    count=st.integers(0, 3),
    nesterov=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_arguments(shapes, grad_dtype, copy_dtype, lr, momentum, dampening, weight_decay, count, nesterov, maximize, seed):
    nesterov = nesterov and momentum > 0
    hyper = {"lr": lr, "momentum": momentum, "dampening": 0.0 if nesterov else dampening, "weight_decay": weight_decay}
    lists = inputs(shapes, hyper, grad_dtype, copy_dtype, counts=[count] * len(shapes), seed=seed)
    assert_equals_definition(mp.sgd_update_, lists, None, "cpu", **hyper, nesterov=nesterov, maximize=maximize)


@given(values=st.lists(st.tuples(*[st.floats(width=32)] * 3), min_size=1, max_size=100))
def test_any_values(values):
    masters, buffers, grads = torch.tensor(values).t().contiguous().unbind()
    lists = [[masters], [buffers], steps_of([3]), [masters.to(torch.float16)], [grads]]
    assert_equals_definition(mp.sgd_update_, lists, None, "cpu", **HYPER)


REFUSALS = {
    "lr": (ValueError, "lr must be finite and >= 0, got nan", lambda a: a.update(lr=float("nan"))),
    "momentum": (ValueError, "momentum must be finite and >= 0, got -0.1", lambda a: a.update(momentum=-0.1)),
    "dampening": (ValueError, "dampening must be finite, got inf", lambda a: a.update(dampening=float("inf"))),
    "decay": (ValueError, "weight_decay must be finite and >= 0, got -1", lambda a: a.update(weight_decay=-1.0)),
    "nesterov": (ValueError, "nesterov needs momentum > 0 and dampening 0, got momentum 0.9 and dampening 0.2",
                 lambda a: a.update(nesterov=True)),
    "no buffers": (ValueError, "momentum_buffers must hold one tensor for each of the 2 masters, got 0",
                   lambda a: a["momentum_buffers"].clear()),
    "buffers": (ValueError, "momentum_buffers must be empty without momentum, got 2 tensors", lambda a: a.update(momentum=0.0)),
    "buffer": (TypeError, r"momentum_buffers\[1\] must be one of torch.float32, got torch.bfloat16",
               lambda a: a["momentum_buffers"].__setitem__(1, torch.ones(3).bfloat16())),
    "shape": (ValueError, r"grads\[0\] must have the shape of its master, \(2, 3\), got \(6,\)",
              lambda a: a["grads"].__setitem__(0, torch.ones(6).bfloat16())),
    "sparse": (TypeError, r"grads\[1\] must be a strided tensor, got layout torch.sparse_coo",
               lambda a: a["grads"].__setitem__(1, torch.ones(3).bfloat16().to_sparse())),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case):
    error, message, spoil = REFUSALS[case]
    names = ("masters", "momentum_buffers", "steps", "params", "grads")
    arguments = {**dict(zip(names, inputs([(2, 3), (3,)], HYPER), strict=True)), **HYPER}
    before = [[t.clone() for t in arguments[name]] for name in names[:-1]]
    tensors = [list(arguments[name]) for name in names[:-1]]
    spoil(arguments)
    with pytest.raises(error, match=message):
        mp.sgd_update_(**arguments)
    assert_same_lists(tensors, before)


def test_autograd_sees_the_change(backend, device):
    lists = [[t.to(device) for t in tensors] for tensors in inputs([(3,)], HYPER)]
    versions = [tensors[0]._version for tensors in lists]
    mp.sgd_update_(*lists, **HYPER, backend=backend)
    assert [tensors[0]._version > v for tensors, v in zip(lists, versions, strict=True)] == [True] * 4 + [False]


@kinds
def test_opcheck(backend, hyper):
    torch.library.opcheck(
        torch.ops.mpkernels.sgd_update_.default, (*inputs([(33,), (2, 3)], hyper), *hyper.values()), {"backend": backend}
    )


@pytest.mark.spread
def test_opcheck_with_amaxes(backend):
    args, amaxes = (*inputs([(33,), (2, 3)], HYPER), *HYPER.values()), [torch.zeros(()) for _ in range(2)]
    torch.library.opcheck(torch.ops.mpkernels.sgd_update_.default, args, {"param_amaxes": amaxes, "backend": backend})


@kinds
def test_compiles_to_one_graph(hyper):
    def step(lists, scale):
        mp.sgd_update_(*lists, **hyper, inv_loss_scale=scale * 0.5)
        return lists[0][0] + 1

    lists, expected = inputs([(33,), (2, 3)], hyper), inputs([(33,), (2, 3)], hyper)
    result = torch.compile(step, fullgraph=True, backend="aot_eager")(lists, torch.tensor(2.0))
    assert_matches(result, step(expected, torch.tensor(2.0)))
    assert_same_lists(lists, expected)
