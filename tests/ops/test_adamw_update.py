"""adamw_update_: contract in mpkernels/ops/adamw_update/__init__.py."""

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

HYPER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05}
DEVICE_SCALARS = {"inv_loss_scale": torch.tensor(2.0**-7), "grad_norm": torch.tensor(3.0), "max_grad_norm": 1.5}
U = FP32.epsilon / 2  # the most one rounding errs by, relative
dtypes = pytest.mark.parametrize(
    ("grad_dtype", "copy_dtype"), list(itertools.product(GRAD_DTYPES, COPY_DTYPES)), ids=lambda d: str(d).split(".")[-1]
)


def inputs(shapes, grad_dtype=torch.bfloat16, copy_dtype=torch.bfloat16, *, counts=None, seed=0):
    """masters, exp_avgs, exp_avg_sqs, steps, params, grads."""
    masters = randn(shapes, torch.float32, seed)
    second = [t.square() for t in randn(shapes, torch.float32, seed + 1)]
    steps = steps_of(counts if counts is not None else [7.0] * len(shapes))
    params = [] if copy_dtype is None else [torch.zeros_like(master, dtype=copy_dtype) for master in masters]
    return [masters, randn(shapes, torch.float32, seed + 2), second, steps, params, randn(shapes, grad_dtype, seed + 3)]


@pytest.mark.spread
@dtypes
def test_equals_the_definition(backend, device, grad_dtype, copy_dtype):
    lists = inputs(SHAPES, grad_dtype, copy_dtype)
    assert_equals_definition(mp.adamw_update_, lists, backend, device, **HYPER, **DEVICE_SCALARS)


@pytest.mark.spread
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.0), (0.4, 0.5), (0.5, 0.99), (0.9, 0.95)])
def test_every_beta_and_direction(backend, device, beta1, beta2, maximize):
    hyper = {**HYPER, "beta1": beta1, "beta2": beta2, "maximize": maximize}
    assert_equals_definition(mp.adamw_update_, inputs([(257,)], torch.float32), backend, device, **hyper)


@pytest.mark.parametrize("counts", [[0, 1, 2, 3], [9, 99, 999, 9999], [10**5, 10**6, 2**24 - 1, 2**24]])
def test_each_tensor_has_its_own_step(backend, device, counts):
    lists = inputs([(40,)] * 4, counts=counts)
    _, _, _, steps, _ = assert_equals_definition(mp.adamw_update_, lists, backend, device, **HYPER)
    assert [step.item() for step in steps] == [min(count + 1, 2**24) for count in counts]


def test_powers_are_by_repeated_squaring(backend, device):
    """At this step the C library's pow gives another float32 step_size; masters of 0 let it be seen."""
    lists = inputs([(400,)], counts=[28_399])
    lists[0][0].zero_()
    assert_equals_definition(mp.adamw_update_, lists, backend, device, **{**HYPER, "beta1": 0.99999})


@dtypes
def test_special_values(backend, device, grad_dtype, copy_dtype):
    masters = [specials(torch.float32, shift=shift) for shift in range(0, 30, 6)]
    lists = inputs([m.shape for m in masters], grad_dtype, copy_dtype)
    lists[0], lists[1] = masters, [specials(torch.float32, shift=2 * i) for i in range(5)]
    lists[2] = [specials(torch.float32, shift=3 * i).abs() for i in range(5)]
    lists[5] = [specials(grad_dtype, shift=5 * i)[: m.numel()] for i, m in enumerate(masters)]
    for eps in (1e-8, 0.0):
        assert_equals_definition(mp.adamw_update_, lists, backend, device, **{**HYPER, "eps": eps})


@pytest.mark.spread
@pytest.mark.parametrize("norm", [0.0, 1e-20, 1.5, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("max_norm", [1e-3, 1.5, float("inf")])
def test_every_norm(backend, device, norm, max_norm):
    clip = {"grad_norm": torch.tensor(norm), "max_grad_norm": max_norm}
    assert_equals_definition(mp.adamw_update_, inputs([(70,)]), backend, device, **HYPER, **clip)


def test_clips_as_clip_grad_norm(backend, device):
    lists = inputs([(70,), (3, 5)], torch.float32)
    clipped = [torch.nn.Parameter(grad) for grad in lists[5]]
    for p, grad in zip(clipped, lists[5], strict=True):
        p.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(clipped, 1.5)
    in_kernel = run_guarded(mp.adamw_update_, lists, device, **HYPER, grad_norm=norm, max_grad_norm=1.5, backend=backend)
    before_it = run_guarded(mp.adamw_update_, [*lists[:5], [p.grad for p in clipped]], device, **HYPER, backend=backend)
    assert_same_lists(in_kernel, before_it)


def test_lr_tensor_replaces_lr(backend, device):
    lists = inputs([(70,)])
    rate = torch.tensor(0.03)
    given_tensor = assert_equals_definition(mp.adamw_update_, lists, backend, device, **HYPER, lr_tensor=rate)
    given_number = run_guarded(mp.adamw_update_, lists, device, **{**HYPER, "lr": rate.item()}, backend=backend)
    assert_same_lists(given_tensor, given_number)


@pytest.mark.parametrize("flag", [1.0, 2.0, float("inf"), float("nan")])
def test_found_inf_leaves_every_byte(backend, device, flag):
    lists = inputs(SHAPES, counts=[0] * len(SHAPES))
    lists[0][3].fill_(float("nan"))
    after = run_guarded(mp.adamw_update_, lists, device, **HYPER, found_inf=torch.tensor(flag), backend=backend)
    assert_same_lists(after, lists[:-1])


def test_found_inf_zero_updates(backend, device):
    lists = inputs([(70,)])
    with_flag = run_guarded(mp.adamw_update_, lists, device, **HYPER, found_inf=torch.tensor(0.0), backend=backend)
    assert_same_lists(with_flag, run_guarded(mp.adamw_update_, lists, device, **HYPER, backend=backend))


def test_the_copy_is_the_rounded_master(backend, device):
    for dtype in (torch.bfloat16, torch.float16):
        lists = inputs([(5000,)], copy_dtype=dtype)
        lists[0][0] *= 40000  # some masters are beyond float16
        masters, _, _, _, params = run_guarded(mp.adamw_update_, lists, device, **HYPER, backend=backend)
        assert_matches(params[0], masters[0].to(dtype))


copies = pytest.mark.parametrize("copy_dtype", COPY_DTYPES, ids=str)


@pytest.mark.spread
@copies
def test_amaxes_of_the_parameters(backend, device, copy_dtype):
    lists = inputs(SHAPES, copy_dtype or torch.float32, copy_dtype)
    assert_writes_amaxes(mp.adamw_update_, lists, backend, device, **HYPER, **DEVICE_SCALARS)


@pytest.mark.spread
@copies
def test_amaxes_of_broken_parameters(backend, device, copy_dtype):
    lists = inputs([(70,)] * 6, copy_dtype=copy_dtype)
    lists[0] = broken_masters(lists[0])
    assert_writes_amaxes(mp.adamw_update_, lists, backend, device, **{**HYPER, "lr": 0.0})


@pytest.mark.spread
@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_found_inf_leaves_the_amaxes(backend, device, flag):
    assert_writes_amaxes(mp.adamw_update_, inputs(SHAPES), backend, device, **HYPER, found_inf=torch.tensor(flag))


@pytest.mark.spread
@pytest.mark.parametrize("tensors", [140, 160])
def test_amaxes_of_more_tensors_than_a_table_of_4_kb(backend, device, tensors):
    assert_writes_amaxes(mp.adamw_update_, inputs([(i % 7,) for i in range(tensors)]), backend, device, **HYPER)


@pytest.mark.parametrize("grad_dtype", GRAD_DTYPES, ids=str)
def test_strides_of_gradients(backend, device, grad_dtype):
    views = [grad for _, grad in strided_views((13, 37), grad_dtype)]
    lists = inputs([(13, 37)] * len(views), grad_dtype)
    lists[5] = views
    assert_equals_definition(mp.adamw_update_, lists, backend, device, **HYPER)


def test_dense_masters_of_any_layout(backend, device):
    def transposed(t):
        return t.t().contiguous().t()

    def channels_last(t):
        return t.reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)

    for layout in (transposed, channels_last):
        plain = inputs([(6, 20)])
        written = [[t if t.dim() == 0 else layout(t) for t in tensors] for tensors in plain[:-1]]
        contiguous_grads = [g.reshape(m.shape) for g, m in zip(plain[-1], written[0], strict=True)]
        after = assert_equals_definition(mp.adamw_update_, [*written, contiguous_grads], backend, device, **HYPER)
        expected = run_guarded(mp.adamw_update_, plain, device, **HYPER, backend=backend)
        for tensors, wanted in zip(after, expected, strict=True):
            assert_matches(tensors[0].reshape(wanted[0].shape), wanted[0])


@pytest.mark.parametrize("offset", [0, 1])
def test_long_lists_stream_the_copy(backend, device, offset, not_emulated):
    """From 2^22 elements on; a copy that begins at an odd address cannot be streamed."""
    size = 2**22 - 1000
    lists = inputs([(size,), (1777,)])
    buffers = [torch.full((tensor.numel() + 16,), 7.0, dtype=torch.bfloat16, device=device) for tensor in lists[4]]
    views = [buffer[8 + offset : 8 + offset + tensor.numel()] for buffer, tensor in zip(buffers, lists[4], strict=True)]
    plain = [[tensor.to(device) for tensor in some] for some in lists]
    tensors = [[tensor.clone() for tensor in some] for some in plain]
    mp.adamw_update_(*tensors[:4], views, tensors[-1], **HYPER, backend=backend)
    for master, view, buffer in zip(tensors[0], views, buffers, strict=True):
        assert_matches(view, master.bfloat16())
        assert (buffer[: 8 + offset] == 7).all()
        assert (buffer[8 + offset + master.numel() :] == 7).all()
    mp.adamw_update_(*plain, **HYPER, backend="reference")
    assert_same_lists(tensors[:4], plain[:4])


def test_more_tensors_than_a_table_of_4_kb(backend, device):
    shapes = [(i % 7,) for i in range(160)]
    lists = inputs(shapes, counts=[i % 5 for i in range(160)])
    assert_equals_definition(mp.adamw_update_, lists, backend, device, **HYPER, **DEVICE_SCALARS)


def test_no_tensors(backend):
    mp.adamw_update_([], [], [], [], [], [], **HYPER, backend=backend)


@pytest.mark.spread
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_one_step_of_torch_in_float64(backend, device, count, weight_decay):
    """Counting roundings (docs/numerics.md): 4 touch p, 10 the update, 3 the difference g - m before it is weighted."""
    hyper = {**HYPER, "weight_decay": weight_decay}
    lists = inputs([(20_000,)], torch.float32, None, counts=[count])
    masters, exp_avgs, exp_avg_sqs, steps, _, grads = lists
    if count == 0:
        exp_avgs[0].zero_()
        exp_avg_sqs[0].zero_()
    peer = torch.nn.Parameter(masters[0].double())
    peer.grad = grads[0].double()
    torch_adamw = torch.optim.AdamW([peer], lr=HYPER["lr"], betas=(0.9, 0.999), weight_decay=weight_decay)
    torch_adamw.state[peer] = {
        "step": steps[0].clone(), "exp_avg": exp_avgs[0].double(), "exp_avg_sq": exp_avg_sqs[0].double()
    }  # fmt: skip
    torch_adamw.step()
    after = run_guarded(mp.adamw_update_, lists, device, **hyper, backend=backend)

    state, t = torch_adamw.state[peer], count + 1
    decayed = masters[0].double() * (1 - HYPER["lr"] * weight_decay)
    update = (decayed - peer).detach().abs()
    denominator = (state["exp_avg_sq"] / (1 - 0.999**t)).sqrt() + HYPER["eps"]
    step_size = HYPER["lr"] / (1 - 0.9**t)
    weighted = 0.1 * (grads[0].double() - exp_avgs[0].double()).abs()
    bound = U * (3 * decayed.abs() + peer.detach().abs() + 11 * update + 3 * step_size * weighted / denominator)
    assert ((after[0][0].cpu().double() - peer.detach()).abs() <= bound).all()
    assert ((after[2][0].cpu().double() - state["exp_avg_sq"]).abs() <= 5 * U * state["exp_avg_sq"]).all()


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=6),
    grad_dtype=st.sampled_from(GRAD_DTYPES),
    copy_dtype=st.sampled_from(COPY_DTYPES),
    lr=st.floats(0, 10),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    eps=st.sampled_from([0.0, 1e-30, 1e-8, 1.0]),
    weight_decay=st.floats(0, 10),
    count=st.integers(0, 2**24),
    maximize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_arguments(shapes, grad_dtype, copy_dtype, lr, betas, eps, weight_decay, count, maximize, seed):
    lists = inputs(shapes, grad_dtype, copy_dtype, counts=[count] * len(shapes), seed=seed)
    assert_equals_definition(mp.adamw_update_, lists, None, "cpu", lr, *betas, eps, weight_decay, maximize)


@given(values=st.lists(st.tuples(*[st.floats(width=32)] * 3), min_size=1, max_size=100), second=st.floats(0, width=32))
def test_any_values(values, second):
    masters, averages, grads = torch.tensor(values).t().contiguous().unbind()
    lists = [[masters], [averages], [torch.full_like(masters, second)], steps_of([3]), [masters.to(torch.float16)], [grads]]
    assert_equals_definition(mp.adamw_update_, lists, None, "cpu", **HYPER)


REFUSALS = {
    "lr": (ValueError, "lr must be finite and >= 0, got -1", lambda a: a.update(lr=-1.0)),
    "lr nan": (ValueError, "lr must be finite and >= 0, got nan", lambda a: a.update(lr=float("nan"))),
    "beta1": (ValueError, "beta1 must be >= 0 and < 1, got 1.0", lambda a: a.update(beta1=1.0)),
    "beta2": (ValueError, "beta2 must be >= 0 and < 1, got nan", lambda a: a.update(beta2=float("nan"))),
    "eps": (ValueError, "eps must be finite and >= 0, got -1", lambda a: a.update(eps=-1e-8)),
    "decay": (ValueError, "weight_decay must be finite and >= 0, got inf", lambda a: a.update(weight_decay=float("inf"))),
    "clip": (ValueError, r"max_grad_norm must be >= 0 .*got nan", lambda a: a.update(max_grad_norm=float("nan"))),
    "norm": (ValueError, "got no grad_norm and max_grad_norm 1.0", lambda a: a.update(max_grad_norm=1.0)),
    "unused norm": (ValueError, "got a grad_norm and max_grad_norm 0", lambda a: a.update(grad_norm=torch.ones(()))),
    "length": (ValueError, "grads must hold one tensor for each of the 2 masters, got 1", lambda a: a["grads"].pop()),
    "copies": (ValueError, "params must hold one tensor for each of the 2 masters, got 1", lambda a: a["params"].pop()),
    "master": (TypeError, r"masters\[1\] must be one of torch.float32, got torch.float64",
               lambda a: a["masters"].__setitem__(1, torch.ones(3).double())),
    "state": (TypeError, r"exp_avg_sqs\[0\] must be one of torch.float32, got torch.bfloat16",
              lambda a: a["exp_avg_sqs"].__setitem__(0, torch.ones(2, 3).bfloat16())),
    "param": (TypeError, r"params\[0\] must be one of torch.bfloat16, torch.float16, got torch.float32",
              lambda a: a["params"].__setitem__(0, torch.ones(2, 3))),
    "mixed": (TypeError, r"grads must all have the dtype of grads\[0\], torch.bfloat16, got torch.float16 at 1",
              lambda a: a["grads"].__setitem__(1, torch.ones(3).half())),
    "shape": (ValueError, r"exp_avgs\[0\] must have the shape of its master, \(2, 3\), got \(3, 2\)",
              lambda a: a["exp_avgs"].__setitem__(0, torch.ones(3, 2))),
    "step": (ValueError, r"steps\[0\] must have shape \(\), \(\), got \(1,\)",
             lambda a: a["steps"].__setitem__(0, torch.ones(1))),
    "strides": (ValueError, r"params\[0\] must have the strides of its master, \(3, 1\), got \(1, 2\)",
                lambda a: a["params"].__setitem__(0, torch.ones(3, 2).bfloat16().t())),
    "holes": (ValueError, r"masters\[1\] must be dense without overlap, got shape \(3,\), strides \(2,\)",
              lambda a: a["masters"].__setitem__(1, torch.ones(6)[::2])),
    "overlap": (ValueError, r"masters\[1\] must be dense without overlap, got shape \(3,\), strides \(0,\)",
                lambda a: a["masters"].__setitem__(1, torch.ones(1).expand(3))),
    "device": (ValueError, r"grads\[1\] must be on cpu like masters\[0\], got meta",
               lambda a: a["grads"].__setitem__(1, torch.ones(3, device="meta").bfloat16())),
    "amaxes": (ValueError, "param_amaxes must hold one tensor for each of the 2 masters, got 1",
               lambda a: a.update(param_amaxes=[torch.ones(())])),
    "amax dtype": (TypeError, r"param_amaxes\[0\] must be one of torch.float32, got torch.bfloat16",
                   lambda a: a.update(param_amaxes=[torch.ones(()).bfloat16()] * 2)),
    "amax shape": (ValueError, r"param_amaxes\[1\] must have shape \(\), \(\), got \(1,\)",
                   lambda a: a.update(param_amaxes=[torch.ones(()), torch.ones(1)])),
    "amax device": (ValueError, r"param_amaxes\[1\] must be on cpu like masters\[0\], got meta",
                    lambda a: a.update(param_amaxes=[torch.ones(()), torch.ones((), device="meta")])),
    "scalar": (TypeError, r"found_inf must be a float32 tensor of shape \(\), got torch.float32 of shape \(1,\)",
               lambda a: a.update(found_inf=torch.zeros(1))),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case):
    error, message, spoil = REFUSALS[case]
    names = ("masters", "exp_avgs", "exp_avg_sqs", "steps", "params", "grads")
    arguments = {**dict(zip(names, inputs([(2, 3), (3,)]), strict=True)), **HYPER}
    spoil(arguments)
    before = [[t.clone() for t in arguments[name]] for name in names]
    with pytest.raises(error, match=message):
        mp.adamw_update_(**arguments)
    for name, tensors in zip(names, before, strict=True):
        for tensor, unchanged in zip(arguments[name], tensors, strict=True):
            assert tensor.is_meta or torch.equal(tensor, unchanged), name


def test_autograd_sees_the_change(backend, device):
    lists = [[t.to(device) for t in tensors] for tensors in inputs([(3,)])]
    versions = [[t._version for t in tensors] for tensors in lists]
    mp.adamw_update_(*lists, **HYPER, backend=backend)
    for tensors, old in zip(lists[:-1], versions[:-1], strict=True):
        assert all(t._version > v for t, v in zip(tensors, old, strict=True))
    assert [t._version for t in lists[-1]] == versions[-1]


def test_opcheck(backend):
    torch.library.opcheck(
        torch.ops.mpkernels.adamw_update_.default, (*inputs([(33,), (2, 3)]), *HYPER.values()), {"backend": backend}
    )


@pytest.mark.spread
def test_opcheck_with_amaxes(backend):
    args, amaxes = (*inputs([(33,), (2, 3)]), *HYPER.values()), [torch.zeros(()) for _ in range(2)]
    torch.library.opcheck(torch.ops.mpkernels.adamw_update_.default, args, {"param_amaxes": amaxes, "backend": backend})


def test_compiles_to_one_graph():
    def step(lists, amaxes, scale):
        mp.adamw_update_(*lists, **HYPER, inv_loss_scale=scale * 0.5, param_amaxes=amaxes)
        return lists[0][0] + 1

    lists, expected = ([*inputs([(33,), (2, 3)]), steps_of([0.0, 0.0])] for _ in range(2))
    result = torch.compile(step, fullgraph=True, backend="aot_eager")(lists[:-1], lists[-1], torch.tensor(2.0))
    assert_matches(result, step(expected[:-1], expected[-1], torch.tensor(2.0)))
    assert_same_lists(lists, expected)
