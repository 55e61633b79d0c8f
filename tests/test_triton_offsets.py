"""Triton kernels where elements and bytes are beyond 2^32: the last program of each grid, in the emulator.

Tensors of that size are allocated and never touched; only the part that the program works on is there, at its distance from
the tensor's beginning, and all around it is unmapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import emulated_triton
import pytest
import torch

if (WHY_NOT := emulated_triton.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

import mpkernels as mp
from mpkernels import triton_launch
from mpkernels.ops.adamw_update import triton as adamw_update
from mpkernels.ops.amax import triton as amax
from mpkernels.ops.quantize import triton as quantize
from mpkernels.ops.scaled_mm import triton as scaled_mm
from mpkernels.ops.unscale_and_check import triton as unscale_and_check
from mpkernels.testing import assert_matches
from mpkernels.triton_tables import CHUNK

E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
ENDLESS = 1 << 20  # multiprocessors: persistent kernels get a program for each tile
ROWS, COLUMNS = 2**17, 2**15
Far = Callable[..., None]
each_target = pytest.mark.parametrize("target", ["sm_80", "sm_100"])


@pytest.fixture
def far(target: str) -> Iterator[Far]:
    """far((whole, part), ...): launches from then on run their last program only, and of these tensors the parts are there."""
    launcher = emulated_triton.launcher(target, lambda tensor: False, 0)
    launcher.multiprocessors = ENDLESS

    def begin(*parts: tuple[torch.Tensor, torch.Tensor]) -> None:
        launcher.parts = parts
        launcher.ctas = lambda total: [total - 1]

    with triton_launch.using(launcher):
        yield begin


def random(*shape: int, dtype: torch.dtype = BF16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@each_target
def test_amax(far, target):
    x, found = torch.empty(ROWS, COLUMNS, dtype=BF16), torch.zeros(())
    part = x.view(-1)[-amax.BLOCK * amax.ITERATIONS :]
    part.copy_(random(part.numel()))
    far((x, part))
    amax.run(found, x)
    assert found == part.abs().max()


@each_target
@pytest.mark.parametrize("transpose", [False, True])
def test_quantize(far, target, transpose):
    x, q = torch.empty(ROWS, COLUMNS, dtype=BF16), torch.empty(ROWS, COLUMNS, dtype=E4M3)
    q_t = torch.empty(COLUMNS, ROWS, dtype=E4M3)
    quant_scale, found = torch.tensor(3.0), torch.zeros(())
    if transpose:
        rows, columns = quantize.TILE_ROWS, quantize.at_a_time(x, quantize.TILE_WARPS) // quantize.TILE_ROWS
        parts = [(x, x[-rows:, -columns:]), (q, q[-rows:, -columns:]), (q_t, q_t[-columns:, -rows:])]
    else:
        parts = [(whole, whole.view(-1)[-quantize.PROGRAM :]) for whole in (x, q)]
    (_, values), (_, codes) = parts[:2]
    values.copy_(random(*values.shape))
    far(*parts)
    quantize.run(q, q_t, found, x, quant_scale, E4M3, transpose)
    expected = mp.quantize(values, quant_scale, transpose=transpose, backend="reference")
    assert torch.equal(codes.view(torch.uint8), expected.q.view(torch.uint8))
    assert found == values.abs().max()
    if transpose:
        assert torch.equal(parts[2][1].view(torch.uint8), expected.q_t.view(torch.uint8))


@pytest.mark.parametrize("target", emulated_triton.TARGETS)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_scaled_mm(far, target, side):
    """K is 160. Rows: a has 5 * 2^30 elements, out 2^32. Columns: b has 5 * 2^30."""
    K, many, tile = 160, 2**25, 128
    M, N = (many, tile) if side == "rows" else (1, many)
    a, b, out = torch.empty(M, K, dtype=E4M3), torch.empty(N, K, dtype=E4M3), torch.empty(M, N, dtype=BF16)
    bias, factors = torch.empty(N), (torch.tensor(0.37), torch.tensor(1.9))
    parts = [(a, a[-tile:]), (b, b[-tile:]), (out, out[-tile:, -tile:]), (bias, bias[-tile:])]
    x, y, near, z = (part for _, part in parts)
    x.copy_(random(*x.shape, dtype=E4M3, seed=1))
    y.copy_(random(*y.shape, dtype=E4M3, seed=2))
    z.copy_(random(*z.shape))
    far(*parts)
    scaled_mm.run(a, b, *factors, bias, out, False, False)
    expected = mp.scaled_mm(x, y, *factors, bias=z, out_dtype=BF16, backend="reference")
    assert_matches(near, expected)


@each_target
def test_unscale_and_check(far, target):
    grad, found = torch.empty(2**32, dtype=BF16), torch.zeros(())
    part = grad[-CHUNK:]
    values = random(CHUNK)
    part.copy_(values)
    far((grad, part))
    unscale_and_check.run([grad], torch.tensor(0.37), found)
    assert_matches(part, (values.float() * 0.37).bfloat16())
    assert found == 0


@each_target
def test_adamw_update(far, target):
    numel = 2**31 + CHUNK
    fp32 = [torch.empty(numel) for _ in range(3)]
    low = [torch.empty(numel, dtype=BF16) for _ in range(2)]
    near = [t[-CHUNK:] for t in (*fp32, *low)]
    for i, t in enumerate(near):
        t.copy_(random(CHUNK, seed=i).abs())
    step = torch.tensor(3.0)
    hyper = 1e-2, 0.9, 0.95, 1e-8, 0.1
    expected = [[t.clone()] for t in near], step.clone()
    far(*zip((*fp32, *low), near, strict=True))
    adamw_update.run(*([t] for t in fp32), [step], [low[0]], [low[1]], *hyper)
    lists, last = expected
    mp.adamw_update_(*lists[:3], [last], lists[3], lists[4], *hyper, backend="reference")
    for got, (wanted,) in zip(near, lists, strict=True):
        assert_matches(got, wanted)
    assert step == last == 4
