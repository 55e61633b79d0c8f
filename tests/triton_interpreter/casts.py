"""Conversions and products of Triton's interpreter done as the hardware does them.

Triton 3.8 and 3.9 truncate float32 to bfloat16, lose subnormals the other way, and turn NaN and subnormals of FP8 into numbers
in a dot. Only what the package's kernels use is repaired: they compute in float32 and float64 and convert on the way in and out.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

VALUES = {
    tl.float8e4nv: ml_dtypes.float8_e4m3fn,
    tl.float8e5: ml_dtypes.float8_e5m2,
    tl.bfloat16: ml_dtypes.bfloat16,
    tl.float16: np.float16,
    tl.float32: np.float32,
    tl.float64: np.float64,
}


def values(data: np.ndarray, dtype: Any) -> np.ndarray:
    """What the interpreter stores, bits for some dtypes, as numbers."""
    kind = np.dtype(VALUES[dtype])
    return data if data.dtype == kind else np.ascontiguousarray(data).view(kind)


def convert(handle: Any, target: Any) -> Any:
    """One rounding to nearest, ties to even."""
    source, target = handle.dtype.scalar, target.scalar
    if source in VALUES and target in VALUES:
        with np.errstate(over="ignore", invalid="ignore"):
            made = values(handle.data, source).astype(VALUES[target])
        return interpreter.TensorHandle(made.view(interpreter._get_np_dtype(target)), target)
    with np.errstate(invalid="ignore"):
        return stock_cast(interpreter.interpreter_builder, handle, target)


def dot(_builder: Any, a: Any, b: Any, total: Any, *_how: Any) -> Any:
    """Products and sums in float32."""
    x, y = (values(h.data, h.dtype.scalar).astype(np.float32) for h in (a, b))
    with np.errstate(over="ignore", invalid="ignore"):
        return interpreter.TensorHandle(np.matmul(x, y) + total.data, total.dtype.scalar)


def dot_scaled(_builder: Any, a: Any, scale_a: Any, format_a: Any, b: Any, scale_b: Any, *rest: Any) -> Any:
    """Block scales are of UE8M0 and must be 1, as those of the package are."""
    total = next(r for r in rest if isinstance(r, interpreter.TensorHandle))
    assert (scale_a.data == 127).all()
    assert (scale_b.data == 127).all()
    return dot(_builder, a, b, total)


def encode(_builder: Any, assembly: str, _constraints: str, arguments: list[Any], *_how: Any) -> Any:
    """Stands in for the package's only inline assembly: saturating conversion to FP8, with the sign of both factors."""
    product, x, negative = (handle.data for handle in arguments)
    kind = ml_dtypes.float8_e5m2 if "e5m2x2" in assembly else ml_dtypes.float8_e4m3fn
    largest = float(ml_dtypes.finfo(kind).max)
    codes = np.where(np.isnan(product), 0x7F, np.clip(product, -largest, largest).astype(kind).view(np.uint8))
    size = 8 * x.dtype.itemsize
    signs = (x.view(f"u{x.dtype.itemsize}") >> (size - 1)).astype(np.uint8) ^ (negative != 0)
    return interpreter.TensorHandle((codes | signs << 7).astype(np.uint8), tl.uint8)


stock_cast = interpreter.InterpreterBuilder.cast_impl


def install() -> None:
    builder = interpreter.InterpreterBuilder
    builder.cast_impl = lambda self, handle, target: convert(handle, target)
    builder.create_fp_to_fp = lambda self, handle, target, rounding: convert(handle, target)
    builder.create_dot, builder.create_dot_scaled, builder.create_inline_asm = dot, dot_scaled, encode
    for name in ("create_si_to_fp", "create_ui_to_fp", "create_fp_to_si", "create_fp_to_ui", "create_fp_ext", "create_fp_trunc"):
        setattr(builder, name, builder.cast_impl)
