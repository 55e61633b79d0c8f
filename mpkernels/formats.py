"""The floating-point formats of mixed precision, as data. Every constant in the package that belongs to a format comes from here.

A format is defined by its numbers of exponent and mantissa bits and by whether it spends the top exponent on infinities
(IEEE 754) or on finite values (E4M3 "fn": only S.1111.111 is NaN). All else is arithmetic on these, done below.

Sources: IEEE 754-2019 section 3.6; OCP 8-bit Floating Point Specification (OFP8) v1.0, section 5.

    >>> E4M3.max, E5M2.max
    (448.0, 57344.0)
    >>> E4M3.smallest_subnormal == 2.0**-9
    True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format: 1 sign bit, `exponent_bits`, `mantissa_bits` (fraction bits, without the implicit one)."""

    name: str
    dtype: torch.dtype
    exponent_bits: int
    mantissa_bits: int
    has_inf: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def max(self) -> float:
        """Largest finite value. Without infinities the top exponent holds numbers too, and only the all-ones mantissa is NaN."""
        if self.has_inf:
            return float(2.0 ** (2**self.exponent_bits - 2 - self.bias) * (2 - 2.0**-self.mantissa_bits))
        return float(2.0 ** (2**self.exponent_bits - 1 - self.bias) * (2 - 2 * 2.0**-self.mantissa_bits))

    @property
    def smallest_normal(self) -> float:
        return float(2.0 ** (1 - self.bias))

    @property
    def smallest_subnormal(self) -> float:
        return float(self.smallest_normal * 2.0**-self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next value; half of it bounds the relative rounding error of a normal result."""
        return float(2.0**-self.mantissa_bits)


FP32 = FloatFormat("FP32", torch.float32, 8, 23)
FP16 = FloatFormat("FP16", torch.float16, 5, 10)
BF16 = FloatFormat("BF16", torch.bfloat16, 8, 7)
E4M3 = FloatFormat("E4M3", torch.float8_e4m3fn, 4, 3, has_inf=False)
E5M2 = FloatFormat("E5M2", torch.float8_e5m2, 5, 2)

FORMATS = (FP32, FP16, BF16, E4M3, E5M2)
FP8_FORMATS = (E4M3, E5M2)
HIGH_PRECISION_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)

_BY_DTYPE = {f.dtype: f for f in FORMATS}


def format_of(dtype: torch.dtype) -> FloatFormat:
    """The format of a torch dtype.

    Raises:
        TypeError: the dtype is none of the five.
    """
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        raise TypeError(f"dtype must be one of {', '.join(str(f.dtype) for f in FORMATS)}, got {dtype}") from None
