"""What cp.reduce.async.bulk adds to what is there: the operations of red, on bytes."""

from __future__ import annotations

import numpy as np

from ..registers import TYPES
from .atomic import combination

OPERATIONS = ("add", "min", "max", "inc", "dec", "and", "or", "xor")
PLAIN = {"f32.ftz": "f32", "tf32": "f32", "tf32.ftz": "f32"}


def combine_bytes(operation: str, kind: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`old` and `new`: bytes of the same shape; the last axis holds whole elements."""
    element = TYPES[PLAIN.get(kind, kind)]
    a, b = (np.ascontiguousarray(x).view(element.dtype) for x in (old, new))
    result = combination(operation, element)(a, b)
    return np.ascontiguousarray(result.astype(element.dtype, copy=False)).view(np.uint8)
