"""unscale_and_check_: contract in mpkernels/ops/unscale_and_check/__init__.py."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels.formats import HIGH_PRECISION_DTYPES, format_of
from mpkernels.testing import all_codes, assert_matches, bits_of, special_values, strided_views

dtypes = pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
# Powers of two, one that rounds, growth (results overflow), a subnormal, zero, signs, Inf and NaN.
FACTORS = [2.0**-16, 1.0, 1 / 3, 3.0e4, 2.0**120, 1e-40, 0.0, -0.5, float("inf"), float("nan")]
CHUNK = 16384  # kChunkElements in csrc/simd/multi_tensor.h


def scalar(value: float, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(value, device=device)


def check_against_definition(grads, factor, backend, device):
    """Runs the op on copies, compares all bytes with the formula, and returns found_inf."""
    got, found_inf = [g.clone().to(device) for g in grads], scalar(0.0, device)
    mp.unscale_and_check_(got, scalar(factor, device), found_inf, backend=backend)
    expected = [(g.float() * scalar(factor)).to(g.dtype) for g in grads]
    for actual, wanted in zip(got, expected, strict=True):
        assert_matches(actual, wanted)
    bad = any(not bool(t.isfinite().all()) for t in itertools.chain(grads, expected))
    assert_matches(found_inf, torch.tensor(float(bad)))
    return found_inf.item()


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("factor", FACTORS)
def test_special_values(backend, device, dtype, factor):
    assert check_against_definition([special_values(dtype)], factor, backend, device) == 1.0
    own = format_of(dtype)
    for value in (0.0, own.smallest_subnormal, own.max, -own.max, float("inf"), -float("inf"), float("nan")):
        check_against_definition([torch.full((3,), value, dtype=dtype)], factor, backend, device)


@pytest.mark.spread
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [1.0, 1 / 3, 3.0e4])
def test_all_codes(backend, device, dtype, factor):
    assert check_against_definition([all_codes(dtype)], factor, backend, device) == 1.0


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_sizes_around_chunks(backend, device, dtype, factor):
    sizes = [0, 1, 31, CHUNK - 1, CHUNK, 0, CHUNK + 1, 0, 0, 3 * CHUNK, 5, 100_003, 0]
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
    assert check_against_definition(grads, factor, backend, device) == 0.0


@pytest.mark.spread
@pytest.mark.parametrize("factor", [0.5, 1.0])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_one_bad_element_anywhere_is_found(backend, device, factor, bad):
    for tensor, position in [(0, 0), (0, 6), (2, 0), (2, CHUNK), (2, CHUNK + 2)]:
        grads = [torch.ones(7).half(), torch.ones(0), torch.ones(CHUNK + 3).bfloat16()]
        grads[tensor][position] = bad
        assert check_against_definition(grads, factor, backend, device) == 1.0


@pytest.mark.parametrize(
    ("dtype", "last_finite"),
    [
        (torch.float16, 65520 - 2.0**-8),
        (torch.bfloat16, float.fromhex("0x1.fefffep127")),
        (torch.float32, float.fromhex("0x1.fffffep127")),
    ],
    ids=str,
)
def test_found_inf_counts_what_only_rounding_makes_infinite(backend, device, dtype, last_finite):
    # 1 * x is x exactly, so the factor is the value that gets rounded to the dtype
    one, next_up = torch.ones(5, dtype=dtype), torch.nextafter(torch.tensor(last_finite), torch.tensor(float("inf")))
    assert check_against_definition([one], last_finite, backend, device) == 0.0
    assert check_against_definition([one], next_up.item(), backend, device) == 1.0
    assert check_against_definition([-one], next_up.item(), backend, device) == 1.0


def test_found_inf_is_left_alone_without_a_finding(backend, device):
    found_inf = scalar(3.0, device)
    mp.unscale_and_check_([torch.ones(4, device=device)], scalar(0.5, device), found_inf, backend=backend)
    assert found_inf.item() == 3.0
    mp.unscale_and_check_([torch.tensor([float("nan")], device=device)], scalar(0.5, device), found_inf, backend=backend)
    assert found_inf.item() == 1.0


def test_more_tensors_than_a_table_of_4_kb(backend, device):
    grads = [torch.randn(i % 7).to(HIGH_PRECISION_DTYPES[i % 3]) for i in range(400)]
    assert check_against_definition(grads, 1 / 3, backend, device) == 0.0
    grads[-2][2] = float("inf")
    assert check_against_definition(grads, 1 / 3, backend, device) == 1.0


def test_mixed_dtypes(backend, device):
    grads = [torch.randn(n).to(t) for n, t in itertools.product((3, 70, 20_000), HIGH_PRECISION_DTYPES)]
    check_against_definition(grads, 1 / 3, backend, device)


@pytest.mark.parametrize("grads", [[], [torch.empty(0)], [torch.empty(3, 0), torch.empty(0, 2).t()]], ids=str)
def test_nothing_to_do(backend, device, grads):
    for factor in FACTORS:
        assert check_against_definition(grads, factor, backend, device) == 0.0


@dtypes
def test_strides_and_what_lies_between(backend, device, dtype):
    for (name, x), (_, kept) in zip(strided_views((13, 37), dtype), strided_views((13, 37), dtype), strict=True):
        if name.startswith("expanded"):
            continue
        x, base = x.to(device), None
        if device == "cpu":
            base = x._base if x._base is not None else x
        expected = (kept.float() * (1 / 3)).to(dtype)
        inside = torch.as_strided(torch.zeros_like(base), x.shape, x.stride(), x.storage_offset()) if base is not None else None
        before = base.clone() if base is not None else None
        mp.unscale_and_check_([x], scalar(1 / 3, device), scalar(0.0, device), backend=backend)
        assert_matches(x, expected), name
        if base is not None:
            inside.fill_(1)  # marks x's own elements in a tensor like its base
            outside = inside._base == 0
            assert (bits_of(base) == bits_of(before))[outside].all(), name


def test_dense_in_another_order(backend, device):
    x = torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last).to(device)
    expected, strides = x * 0.5, x.stride()
    mp.unscale_and_check_([x], scalar(0.5, device), scalar(0.0, device), backend=backend)
    assert_matches(x, expected)
    assert x.stride() == strides


@given(
    sizes=st.lists(st.integers(0, 70), max_size=6),
    values=st.lists(st.floats(width=32), min_size=1, max_size=20),
    factor=st.floats(width=32),
    dtype=st.sampled_from(HIGH_PRECISION_DTYPES),
)
def test_any_list(sizes, values, factor, dtype):
    pool = itertools.cycle(torch.tensor(values, dtype=torch.float32).to(dtype))
    grads = [torch.stack(list(itertools.islice(pool, n))) if n else torch.empty(0, dtype=dtype) for n in sizes]
    check_against_definition(grads, factor, None, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_torch(backend, device, dtype):
    ours = [torch.randn(n).to(dtype).to(device) for n in (5, 1000, 40_000)]
    theirs = [g.clone() for g in ours]
    for bad in (False, True):
        if bad:
            ours[1][7] = theirs[1][7] = float("inf")
        found = [scalar(0.0, device), scalar(0.0, device)]
        mp.unscale_and_check_(ours, scalar(1 / 3, device), found[0], backend=backend)
        torch._amp_foreach_non_finite_check_and_unscale_(theirs, found[1], scalar(1 / 3, device))
        assert_matches(found[0], found[1])
        for a, b in zip(ours, theirs, strict=True):
            assert_matches(a, b)


def test_any_number_of_threads():
    threads = torch.get_num_threads()
    grads = [torch.randn(n) for n in (100_000, 3, 0, 50_000, 17, 200_001)]
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            check_against_definition(grads, 1 / 3, None, "cpu")
    finally:
        torch.set_num_threads(threads)


def test_autograd_sees_the_write(backend, device):
    grad, weight = torch.ones(3, device=device), torch.ones(3, device=device, requires_grad=True)
    loss = (weight * grad).sum()
    mp.unscale_and_check_([grad], scalar(0.5, device), scalar(0.0, device), backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_takes_leaves_that_require_grad(backend, device):
    for view in (slice(None), slice(None, None, 2)):
        grad = torch.ones(4, device=device, requires_grad=True)
        mp.unscale_and_check_([grad.detach()[view]], scalar(0.5, device), scalar(0.0, device), backend=backend)
        mp.unscale_and_check_([grad], scalar(0.5, device), scalar(0.0, device), backend=backend)
        assert grad.requires_grad
        assert grad[0].item() == 0.25


@pytest.mark.parametrize(
    ("grads", "inv_loss_scale", "found_inf", "error", "sentence"),
    [
        (
            [torch.ones(2), torch.ones(2).double()],
            scalar(0.5),
            scalar(0.0),
            TypeError,
            r"grads\[1\] must be one of .*got torch.float64",
        ),
        (
            [torch.eye(2).to_sparse()],
            scalar(0.5),
            scalar(0.0),
            TypeError,
            r"grads\[0\] must be a strided tensor, got layout .*coo",
        ),
        ([torch.ones(2, device="meta")], scalar(0.5), scalar(0.0), ValueError, r"grads\[0\] must be on cpu .*got meta"),
        ([torch.ones(1).expand(3)], scalar(0.5), scalar(0.0), ValueError, r"grads\[0\] must not be expanded .*got shape \(3,\)"),
        ([], torch.ones(1), scalar(0.0), TypeError, r"inv_loss_scale must be .* shape \(\), got torch.float32 of shape \(1,\)"),
        ([], scalar(0.5), scalar(0.0).double(), TypeError, r"found_inf must be .* shape \(\), got torch.float64"),
        ([], scalar(0.5), torch.zeros((), device="meta"), ValueError, "found_inf must be on cpu .*got meta"),
    ],
)
def test_refusals_write_nothing(grads, inv_loss_scale, found_inf, error, sentence):
    good = torch.full((4,), float("inf"))
    with pytest.raises(error, match=sentence):
        mp.unscale_and_check_([good, *grads][::-1] if not grads else [*grads, good], inv_loss_scale, found_inf)
    assert good.isinf().all()
    assert found_inf.is_meta or found_inf == 0


def test_says_why_the_cpu_backend_does_not_run():
    args = [torch.ones(3, device="meta")], torch.ones((), device="meta"), torch.zeros((), device="meta")
    assert mp.explain("unscale_and_check_", *args)["cpu"] == "the gradients are on meta, not on the CPU"


def test_opcheck(backend):
    args = [torch.randn(33), torch.randn(4, 5)], scalar(0.5), scalar(0.0)
    torch.library.opcheck(torch.ops.mpkernels.unscale_and_check_.default, args, {"backend": backend})


def test_compiles_to_one_graph():
    def step(grads, found_inf):
        mp.unscale_and_check_(grads, torch.tensor(0.5), found_inf)
        return [g + 1 for g in grads]

    eager, compiled = [torch.randn(5), torch.randn(3, 2)], torch.compile(step, fullgraph=True, backend="aot_eager")
    copies, found_inf = [g.clone() for g in eager], torch.zeros(())
    for a, b in zip(compiled(copies, found_inf), step(eager, torch.zeros(())), strict=True):
        assert_matches(a, b)
    for a, b in zip(copies, eager, strict=True):
        assert_matches(a, b)
