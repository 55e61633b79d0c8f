"""How matrix instructions accumulate.

"exact": the sum of all products and the accumulator, exact, rounded once to nearest even.
"ada", "hopper": a published model of the FP8 tensor cores (Khattak and Mikaitis, "Accurate Models of NVIDIA Tensor Cores",
arXiv:2512.07004). Products are summed in blocks of 16 (sm_89 mma.sync) or 32 (sm_90 wgmma). In each block the products and
the accumulator are aligned to the largest exponent among them, each is cut toward zero to 13 fraction bits, the sum of
these is exact and is cut to 13 fraction bits in turn. A zero result is +0, any NaN is 0x7FFFFFFF.
"""

from __future__ import annotations

import numpy as np

from .numerics import NAN32, canonical

BLOCKS = {"ada": 16, "hopper": 32}
FRACTION = 13
ABSENT = -(1 << 20)  # the exponent of zero: never the largest


def accumulate(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    model: str,
    smallest: tuple[int, int] | None = None,
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """A (..., M, K) times b (..., K, N) plus c (..., M, N) as `dtype`; a and b are float64 values of the formats.

    smallest: the exponents of the smallest normals of the formats of a and b (-6 for E4M3, -14 for E5M2); None: operands
    that the FP8 models do not speak of, which are computed exactly, as are sums in float16.
    """
    if model == "exact" or smallest is None or dtype is not np.float32:
        return exact(a, b, c, dtype)
    total = c.astype(np.float64)
    for k in range(0, a.shape[-1], BLOCKS[model]):
        total = block(a[..., k : k + BLOCKS[model]], b[..., k : k + BLOCKS[model], :], total, smallest)
    return np.where(np.isnan(total), NAN32, total.astype(np.float32)).astype(np.float32)


def exact(a: np.ndarray, b: np.ndarray, c: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """float64 is exact as long as the terms span 53 bits; the sum of products of narrow formats does."""
    with np.errstate(all="ignore"):
        total = np.matmul(a, b) + c.astype(np.float64)
        return canonical(total.astype(dtype))


def exponents(values: np.ndarray, smallest: int) -> np.ndarray:
    """By which the hardware aligns: subnormals count as normals of the smallest exponent."""
    return np.where(values == 0, ABSENT, np.maximum(np.frexp(values)[1] - 1, smallest)).astype(np.int32)


def block(a: np.ndarray, b: np.ndarray, c: np.ndarray, smallest: tuple[int, int]) -> np.ndarray:
    """One step. In float64 everything is exact but the cuts: products have 8 bits, c has 24, 33 terms of 14 bits are added."""
    special = ~np.isfinite(a).all(axis=-1)[..., :, None] | ~np.isfinite(b).all(axis=-2)[..., None, :] | ~np.isfinite(c)
    if special.any():
        with np.errstate(all="ignore"):
            outcome = np.matmul(a, b) + c  # infinities and NaN follow IEEE
        a, b, c = (np.where(np.isfinite(x), x, 0.0) for x in (a, b, c))
    ea, eb = exponents(a, smallest[0]), exponents(b, smallest[1])
    top = (ea[..., :, :, None] + eb[..., None, :, :]).max(axis=-2)
    top = np.maximum(top, np.where(c == 0, ABSENT, np.frexp(c)[1] - 1))
    top = np.where(top < ABSENT // 2, 0, top)  # nothing but zeros
    scale = np.ldexp(1.0, FRACTION - top)  # the last bit that is kept becomes 1
    terms = a[..., :, :, None] * b[..., None, :, :]
    terms *= scale[..., None, :]
    total = np.trunc(terms, out=terms).sum(axis=-2) + np.trunc(c * scale)
    drop = np.maximum(np.frexp(total)[1] - (FRACTION + 1), 0)  # what the sum has beyond 13 fraction bits of its own exponent
    result = np.ldexp(np.trunc(np.ldexp(total, -drop)), drop + top - FRACTION) + 0.0  # a zero is +0
    return np.where(special, outcome, result) if special.any() else result
