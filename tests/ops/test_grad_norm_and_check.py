"""grad_norm_and_check: contract in mpkernels/ops/grad_norm_and_check/__init__.py."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels import native
from mpkernels.formats import HIGH_PRECISION_DTYPES, format_of
from mpkernels.testing import assert_matches, bits_of, special_values, strided_views, ulp

dtypes = pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
FACTORS = [2.0**-16, 1.0, 1 / 3, 3.0e4, 2.0**120, 1e-40, 0.0, -0.5, float("inf"), float("nan")]
CHUNK = 16384  # kChunkElements in csrc/simd/multi_tensor.h
# Of the contract; FP64 sums (reference, cpu) come within 1: docs/numerics.md.
CONTRACT = ulp(4)


def scalar(value: float, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(value, device=device)


def exact_norm(grads, factor: float) -> torch.Tensor:
    """The contract's formula in rational arithmetic, rounded once to float32. Finite gradients and factors only."""
    factor32 = scalar(factor).item()
    total = sum((Fraction(x) ** 2 for g in grads for x in g.double().flatten().tolist()), Fraction(0)) * Fraction(factor32) ** 2
    shift = 400  # enough fractional bits: the square root of the integer below is exact to 2^-400
    root = Fraction(math.isqrt(int(total * 4**shift)), 2**shift)
    return torch.tensor(float(root), dtype=torch.float64).float()


def run(grads, factor, backend, device, *, found=0.0):
    found_inf = scalar(found, device)
    norm = mp.grad_norm_and_check([g.to(device) for g in grads], scalar(factor, device), found_inf, backend=backend)
    return norm, found_inf


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("factor", [2.0**-16, 1 / 3, -0.5, 3.0, 0.0])
def test_equals_the_exact_norm(backend, device, dtype, factor):
    grads = [torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (1, 31, 33, 1000, 0, 257)]
    norm, found_inf = run(grads, factor, backend, device)
    assert_matches(norm, exact_norm(grads, factor), ulp(1) if backend in ("cpu", "reference") else CONTRACT)
    assert_matches(found_inf, scalar(0.0))


@dtypes
def test_sizes_around_chunks(backend, device, dtype):
    sizes = [0, 1, CHUNK - 1, CHUNK, 0, CHUNK + 1, 0, 3 * CHUNK + 31, 5, 0]
    grads = [torch.full((n,), 3.0, dtype=dtype) for n in sizes]
    norm, _ = run(grads, 0.5, backend, device)
    assert_matches(norm, torch.tensor(1.5 * math.sqrt(sum(sizes))), CONTRACT)


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("value", ["max", "smallest_normal", "smallest_subnormal"])
def test_the_edges_of_a_format_neither_overflow_nor_vanish(backend, device, dtype, value):
    grads = [torch.full((64,), getattr(format_of(dtype), value), dtype=dtype)]
    for factor in (1.0, 2.0**-3):  # norm = 8 value factor
        norm, found_inf = run(grads, factor, backend, device)
        assert_matches(norm, exact_norm(grads, factor), CONTRACT)
        assert_matches(found_inf, scalar(0.0))


def test_a_norm_above_float32_is_inf_and_no_finding(backend, device):
    norm, found_inf = run([torch.full((4,), 3e38)], 1.0, backend, device)
    assert norm.item() == float("inf")
    assert found_inf.item() == 0.0


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("factor", [2.0**-16, 1.0, 2.0, -3.0])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_inf_and_nan_propagate(backend, device, dtype, factor, bad):
    for tensor, position in [(0, 0), (0, 6), (2, 0), (2, CHUNK + 2)]:
        grads = [torch.ones(n, dtype=dtype) for n in (7, 0, CHUNK + 3)]
        grads[tensor][position] = bad
        norm, found_inf = run(grads, factor, backend, device)
        assert_matches(norm, torch.tensor(abs(bad)))
        assert_matches(found_inf, scalar(1.0))


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("factor", FACTORS)
def test_found_inf_is_that_of_unscale_and_check(backend, device, dtype, factor, thinned):
    for value in [*thinned(special_values(dtype)[::3], 4), *special_values(dtype)[-3:]]:
        grads, expected = [value.expand(3)], scalar(0.0)
        _, found_inf = run(grads, factor, backend, device)
        mp.unscale_and_check_([g.clone() for g in grads], scalar(factor), expected, backend="reference")
        assert_matches(found_inf, expected)


@pytest.mark.parametrize("grads", [[], [torch.empty(0)], [torch.empty(3, 0), torch.empty(0, 2).t()]], ids=str)
def test_nothing_gives_zero(backend, device, grads):
    for factor in FACTORS:
        norm, found_inf = run(grads, factor, backend, device)
        assert_matches(norm, scalar(0.0))
        assert_matches(found_inf, scalar(0.0))


def test_found_inf_is_left_alone_without_a_finding(backend, device):
    assert run([torch.ones(4)], 0.5, backend, device, found=3.0)[1].item() == 3.0
    assert run([torch.tensor([float("nan")])], 0.5, backend, device, found=3.0)[1].item() == 1.0


def test_more_tensors_than_a_table_of_4_kb(backend, device):
    grads = [torch.randn(i % 7).to(HIGH_PRECISION_DTYPES[i % 3]) for i in range(400)]
    assert_matches(run(grads, 1 / 3, backend, device)[0], exact_norm(grads, 1 / 3), CONTRACT)
    grads[-2][2] = float("inf")
    assert run(grads, 1 / 3, backend, device)[1].item() == 1.0


def test_mixed_dtypes_and_strides_and_grads_stay(backend, device):
    grads = [x.to(device) for dtype in HIGH_PRECISION_DTYPES for _, x in strided_views((13, 37), dtype)]
    before = [bits_of(g).clone() for g in grads]
    norm = mp.grad_norm_and_check(grads, scalar(1 / 3, device), scalar(0.0, device), backend=backend)
    assert_matches(norm, exact_norm([g.cpu() for g in grads], 1 / 3), CONTRACT)
    assert all((bits_of(g) == b).all() for g, b in zip(grads, before, strict=True))


def test_same_bytes_for_any_number_of_threads_and_instruction_set():
    grads = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (100_000, 3, 0, 50_001, 17, 200_001)]
    grads += [g.bfloat16() for g in grads] + [g.half() for g in grads]
    threads, norms, level = torch.get_num_threads(), set(), native.cpu_capability()
    if level is None:
        pytest.skip(f"cpu: {native.cpu_missing}")
    try:
        for name in native.CPU_CAPABILITIES[: native.CPU_CAPABILITIES.index(level) + 1]:
            native.set_cpu_capability(name)
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                norms.add(mp.grad_norm_and_check(grads, scalar(1 / 3), scalar(0.0), backend="cpu").item())
    finally:
        torch.set_num_threads(threads)
        native.set_cpu_capability(level)
    assert len(norms) == 1


def test_equals_torch_clip_grad_norm(backend, device):
    grads = [torch.randn(n, device=device) for n in (5, 1000, 40_000)]
    norm, _ = run(grads, 1.0, backend, device)
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(grads))


@given(
    sizes=st.lists(st.integers(0, 70), max_size=6),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    factor=st.floats(0, 1, width=32),
)
def test_any_list(sizes, values, factor):
    pool = itertools.cycle(torch.tensor(values, dtype=torch.float32))
    grads = [torch.stack(list(itertools.islice(pool, n))) if n else torch.empty(0) for n in sizes]
    norm, found_inf = run(grads, factor, None, "cpu")
    assert_matches(norm, exact_norm(grads, factor), CONTRACT)
    assert found_inf.item() == 0.0


@pytest.mark.parametrize(
    ("grads", "found_inf", "error", "sentence"),
    [
        ([torch.ones(2), torch.ones(2).double()], scalar(0.0), TypeError, r"grads\[1\] must be one of .*got torch.float64"),
        ([torch.eye(2).to_sparse()], scalar(0.0), TypeError, r"grads\[0\] must be a strided tensor, got layout .*coo"),
        ([torch.ones(2, device="meta")], scalar(0.0), ValueError, r"grads\[0\] must be on cpu .*got meta"),
        ([torch.full((2,), float("nan"))], torch.zeros(1), TypeError, r"found_inf must be .* got torch.float32 of shape \(1,\)"),
    ],
)
def test_refusals_write_nothing(grads, found_inf, error, sentence):
    with pytest.raises(error, match=sentence):
        mp.grad_norm_and_check(grads, scalar(0.5), found_inf)
    assert (found_inf == 0).all()


def test_says_why_the_cpu_backend_does_not_run():
    args = [torch.ones(3, device="meta")], torch.ones((), device="meta"), torch.zeros((), device="meta")
    assert mp.explain("grad_norm_and_check", *args)["cpu"] == "the gradients are on meta, not on the CPU"


def test_opcheck(backend):
    args = [torch.randn(33), torch.randn(4, 5)], scalar(0.5), scalar(0.0)
    torch.library.opcheck(torch.ops.mpkernels.grad_norm_and_check.default, args, {"backend": backend})


def test_compiles_to_one_graph():
    def clip(grads, found_inf):
        return mp.grad_norm_and_check([g * 2 for g in grads], torch.tensor(0.5), found_inf) + found_inf

    grads, found_inf = [torch.randn(5), torch.tensor([float("inf")])], torch.zeros(())
    compiled = torch.compile(clip, fullgraph=True, backend="aot_eager")
    assert_matches(compiled(grads, found_inf), clip(grads, torch.zeros(())))
    assert found_inf.item() == 1.0
