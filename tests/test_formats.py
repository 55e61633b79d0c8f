"""mpkernels.formats against torch.finfo and ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from mpkernels.formats import E4M3, E5M2, FORMATS, format_of
from mpkernels.testing import all_codes

NUMPY_DTYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
}
each_format = pytest.mark.parametrize("f", FORMATS, ids=lambda f: f.name)


@each_format
def test_agrees_with_torch(f):
    info = torch.finfo(f.dtype)
    assert (f.bits, f.max, f.smallest_normal, f.epsilon) == (info.bits, info.max, info.smallest_normal, info.eps)


@each_format
def test_agrees_with_ml_dtypes(f):
    info = ml_dtypes.finfo(NUMPY_DTYPES[f.name])
    assert f.smallest_subnormal == float(info.smallest_subnormal)
    assert f.mantissa_bits == info.nmant
    assert f.bits == info.bits


@pytest.mark.parametrize("f", [f for f in FORMATS if f.bits <= 16], ids=lambda f: f.name)
def test_agrees_with_every_code(f):
    values = all_codes(f.dtype).float()
    finite = values[values.isfinite()]
    assert finite.max() == f.max
    assert finite[finite > 0].min() == f.smallest_subnormal
    assert bool(values.isinf().any()) == f.has_inf


def test_format_of_refuses_other_dtypes():
    assert format_of(torch.float8_e4m3fn) is E4M3
    assert format_of(torch.float8_e5m2) is E5M2
    with pytest.raises(TypeError, match=r"dtype must be one of torch.float32, .*got torch.int8"):
        format_of(torch.int8)
