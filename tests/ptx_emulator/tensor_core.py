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


def parts(values: np.ndarray, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """Value = integer * 2^(exponent - 3): the exponent the hardware aligns by, subnormals at the smallest one."""
    exponent = np.maximum(np.frexp(values)[1] - 1, smallest)
    return np.ldexp(values, 3 - exponent).astype(np.int64), exponent.astype(np.int64)


def cut(values: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Values * 2^shift, toward zero."""
    magnitude = np.abs(values)
    left, right = np.clip(shift, 0, 62), np.clip(-shift, 0, 62)
    return np.sign(values) * (magnitude << left >> right)


def block(a: np.ndarray, b: np.ndarray, c: np.ndarray, smallest: tuple[int, int]) -> np.ndarray:
    special = ~np.isfinite(a).all(axis=-1)[..., :, None] | ~np.isfinite(b).all(axis=-2)[..., None, :] | ~np.isfinite(c)
    if special.any():
        with np.errstate(all="ignore"):
            outcome = np.matmul(a, b) + c  # infinities and NaN follow IEEE
    clean = [np.where(np.isfinite(x), x, 0.0) for x in (a, b, c)]
    ma, ea = parts(clean[0], smallest[0])
    mb, eb = parts(clean[1], smallest[1])
    product = ma[..., :, :, None] * mb[..., None, :, :]  # value = product * 2^(exponent - 6)
    exponent = ea[..., :, :, None] + eb[..., None, :, :]
    fraction, ec = np.frexp(clean[2])
    mc, ec = np.ldexp(fraction, 24).astype(np.int64), ec.astype(np.int64)  # value = mc * 2^(ec - 24), exponent ec - 1
    top = np.maximum(np.where(product != 0, exponent, ABSENT).max(axis=-2), np.where(mc != 0, ec - 1, ABSENT))
    empty = top == ABSENT
    unit = np.where(empty, 0, top) - FRACTION
    total = cut(product, exponent - 6 - unit[..., None, :]).sum(axis=-2) + cut(mc, ec - 24 - unit)
    # Cut the sum to 13 fraction bits of its own exponent.
    drop = np.maximum(np.frexp(np.abs(total).astype(np.float64))[1] - (FRACTION + 1), 0).astype(np.int64)
    result = np.ldexp(np.where(total == 0, 0, cut(cut(total, -drop), drop)).astype(np.float64), unit)
    return np.where(special, outcome, result) if special.any() else result
