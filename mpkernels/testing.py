"""What the tests of an op need, here and for anyone who writes a backend: named inputs and precision families.

Three precision families; every tolerance in the project is one of them, and comes from arithmetic (docs/numerics.md):

    exact          the same bytes (any NaN equals any NaN)
    ulp(n)         at most n units in the last place of the result's format
    reduction(K)   a sum of K products accumulated in FP32, in any order, then rounded once; by tensor cores: and what they cut
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .formats import FP8_DTYPES, FP32, format_of

_INTEGER_OF_WIDTH = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


def bits_of(x: Tensor) -> Tensor:
    """The bit patterns, as the integer dtype of the same width."""
    return x.detach().contiguous().view(_INTEGER_OF_WIDTH[format_of(x.dtype).bits])


def to_float64(x: Tensor) -> Tensor:
    """Exact. FP8 goes through float32, since torch has no direct conversion to float64 on every device."""
    return x.detach().float().double()


def all_codes(dtype: torch.dtype) -> Tensor:
    """Every value of a format of at most 16 bits, NaNs and infinities included, in the order of the bit patterns."""
    bits = format_of(dtype).bits
    if bits > 16:
        raise ValueError(f"dtype must have at most 16 bits, got {dtype}")
    codes = torch.arange(2**bits, dtype=torch.int32)
    return codes.to(torch.uint8).view(dtype) if bits == 8 else codes.to(torch.int16).view(dtype)


def special_values(dtype: torch.dtype) -> Tensor:
    """The values where kernels go wrong.

    Zeros of both signs, subnormals, the edges of the format and of both FP8 formats, ties, infinities and NaN.
    """
    own = format_of(dtype)
    values = [0.0, -0.0, 1.0, -1.0, own.smallest_subnormal, -own.smallest_subnormal, own.smallest_normal, own.max, -own.max]
    for fp8 in map(format_of, FP8_DTYPES):
        step = fp8.max * fp8.epsilon / 2  # an FP8 ulp near the maximum, or half of one
        values += [fp8.max - step, fp8.max, fp8.max + step / 2, fp8.max + step, -fp8.max - step, 4 * fp8.max]
        values += [k * fp8.smallest_subnormal / 2 for k in range(1, 9)]
        values += [1 + k * fp8.epsilon / 2 for k in range(1, 5)]
        values += [fp8.smallest_normal * (1 + k * fp8.epsilon / 4) for k in range(-3, 4)]
    values += [float("inf"), -float("inf"), float("nan")]
    return torch.tensor(values, dtype=torch.float64).to(dtype)


def strided_views(shape: tuple[int, int], dtype: torch.dtype, *, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Named views of random data of a (rows, columns) shape: contiguous, transposed, sliced, expanded and misaligned."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(dtype)

    yield "contiguous", random(rows, columns)
    yield "transposed", random(columns, rows).t()
    yield "row slice", random(rows, columns + 5)[:, 3 : 3 + columns]
    yield "every other column", random(rows, 2 * columns)[:, ::2]
    yield "expanded row", random(1, columns).expand(rows, columns)
    yield "expanded column", random(rows, 1).expand(rows, columns)
    yield "misaligned", random(rows * columns + 1)[1:].view(rows, columns)


@dataclass(frozen=True)
class Family:
    """A precision family. Make one with `exact`, `ulp` or `reduction`."""

    name: str
    ulps: int = 0
    terms: int = 0
    lost: float = 0.0


exact = Family("exact")


def ulp(n: int) -> Family:
    """At most n units in the last place, counted in steps between neighbouring values of the format."""
    return Family("ulp", ulps=n)


@dataclass(frozen=True)
class TensorCore:
    """How tensor cores sum: `block` products and the sum so far are aligned to the largest, and cut to `fraction` bits."""

    block: int
    fraction: int

    def lost(self, terms: int) -> float:
        """The most that a sum of so many products loses, as a share of their magnitudes. docs/numerics.md, "Tensor cores"."""
        return -(-terms // self.block) * (self.block + 2) * 2.0**-self.fraction


# Of products of FP8, by the first architecture (docs/numerics.md has the sources; the last one is an assumption).
TENSOR_CORES = {
    80: TensorCore(8, 24),
    89: TensorCore(16, 13),
    90: TensorCore(32, 13),
    100: TensorCore(32, 25),
    120: TensorCore(32, 21),
}
PROMOTED_EVERY = 128  # of K, where tensor cores keep 13 bits
LEAST_UNPROMOTED = 20  # fraction bits


def tensor_core_of(architecture: int) -> TensorCore:
    """architecture: as in sm_<architecture>."""
    return TENSOR_CORES[max(a for a in TENSOR_CORES if a <= architecture)]


def reduction(terms: int, core: TensorCore | None = None, *, fast: bool = False) -> Family:
    """A sum of `terms` products in FP32, or on tensor cores. See `reduction_bound`.

    Args:
        terms: K.
        core: of a GPU, which sums 128 products at a time if it keeps few bits.
        fast: use_fast_accum: it sums all of them.
    """
    if core is None:
        return Family("reduction", terms=terms)
    alone = terms if fast or core.fraction >= LEAST_UNPROMOTED else min(terms, PROMOTED_EVERY)
    return Family("reduction", terms=-(-terms // max(alone, 1)), lost=core.lost(alone))


def reduction_bound(expected: Tensor, magnitude: Tensor, terms: int, dtype: torch.dtype, lost: float = 0.0) -> Tensor:
    """How far a result of the reduction family may be from the exact value. Derived in docs/numerics.md, "scaled_mm".

    FP32 accumulation of n exact products, in any order, errs by at most (n - 1) u S, u = 2^-24, S the sum of their
    magnitudes. The epilogue adds at most 4 FP32 roundings (the product of the scales, its use, bias, accumulate); one more
    u pays for the terms of second order. Then one rounding to the output format: half an ulp, or half a subnormal step.

    Args:
        expected: the exact value, float64.
        magnitude: S times the scales, plus |bias| and |out|, float64.
        terms: K; of sums on tensor cores, how many of these are added in FP32.
        dtype: of the result.
        lost: what tensor cores cut, as a share of the magnitude, in which subnormal operands then count as the smallest normal.
    """
    u = FP32.epsilon / 2
    out = format_of(dtype)
    accumulated = ((terms + 4) * u + lost) * magnitude
    return accumulated + (expected.abs() + accumulated) * (out.epsilon / 2) + out.smallest_subnormal / 2


def _ordered(x: Tensor) -> Tensor:
    """Integers that count the format's values in order, so that neighbours differ by 1 and -0 equals +0."""
    bits = bits_of(x).to(torch.int64)
    width = format_of(x.dtype).bits
    magnitude = bits & (2 ** (width - 1) - 1)
    negative = (bits >> (width - 1)) & 1 == 1
    return torch.where(negative, -magnitude, magnitude)


def assert_matches(actual: Tensor, expected: Tensor, family: Family = exact, *, magnitude: Tensor | None = None) -> None:
    """Raises AssertionError unless `actual` has the shape and dtype of `expected` and its values within the family's bound.

    Args:
        actual: what a backend returned.
        expected: the reference's result; for reduction(K) the exact value in float64.
        family: exact, ulp(n) or reduction(K).
        magnitude: for reduction(K): see `reduction_bound`.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    if family.name == "reduction":
        assert magnitude is not None, "reduction(K) needs the magnitude"
        error = (to_float64(actual) - expected).abs()
        bound = reduction_bound(expected, magnitude, family.terms, actual.dtype, family.lost)
        overflow = expected.abs() + bound >= format_of(actual.dtype).max  # there Inf may stand for the value
        inf = actual.isinf() & (actual.sign() == expected.sign())
        bad = ~((error <= bound) | (overflow & inf) | (expected.isnan() & actual.isnan()))
    else:
        assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
        both_nan = actual.float().isnan() & expected.float().isnan()
        if family.name == "exact":
            bad = (bits_of(actual) != bits_of(expected)) & ~both_nan
        else:
            one_nan = actual.float().isnan() ^ expected.float().isnan()
            bad = (((_ordered(actual) - _ordered(expected)).abs() > family.ulps) & ~both_nan) | one_nan
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(bad.sum())} of {bad.numel()} values break {family.name}: at {index} got {actual[index].item()!r}, "
            f"expected {expected[index].item()!r}"
        )
