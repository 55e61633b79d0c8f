"""cvt and cvt.pack: between integers, float16/bfloat16/float32/float64, and the packed narrow formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import numerics as nx
from ..binding import Binding, Step, instruction
from ..registers import TYPES, UNSIGNED, Active, ScalarType

INTEGER_ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
FLOATS = {"f16", "bf16", "f32", "f64", "tf32"}
NARROW_X2 = {f"{name}x2": nx.NARROW[name] for name in ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1")}
HALVES = {"f16x2": nx.F16, "bf16x2": nx.BF16}


@instruction("cvt")
def cvt(b: Binding) -> Step:
    source = b.type()
    target = b.type()
    if "x2" in target.name or "x4" in target.name:
        return to_packed(b, target, source)
    rounding = b.choice("rn", "rz", "rm", "rp", "rna", "rs", *INTEGER_ROUNDINGS)
    if rounding == "rs":
        b.fail("stochastic rounding is not supported")
    how = {"mode": rounding, "ftz": b.flag("ftz"), "sat": b.flag("sat"), "satfinite": b.flag("satfinite"), "relu": b.flag("relu")}
    destination, x = b.destination(0, target), b.source(1, source)
    convert = scalar(b, target, source, how)
    return lambda active: destination.write(convert(x), active)


def scalar(b: Binding, target: ScalarType, source: ScalarType, how: dict[str, Any]) -> Callable[[Any], Any]:
    from_float, to_float = source.name in FLOATS, target.name in FLOATS
    if not from_float and not to_float:
        return lambda x: integer_to_integer(x, target, how["sat"])
    if not from_float:
        return lambda x: integer_to_float(np.asarray(x), target, how["mode"] or "rn", how["sat"])
    if to_float:
        return lambda x: float_to_float(widen(x, source, how["ftz"]), source, target, how)
    return lambda x: float_to_integer(widen(x, source, how["ftz"]), target, INTEGER_ROUNDINGS[how["mode"] or "rni"])


def widen(x: Any, source: ScalarType, ftz: bool) -> np.ndarray:
    """float64, exact."""
    if source.name == "bf16":
        x = nx.bf16_to_f32(x)
    elif ftz and source.name == "f32":
        x = nx.flush(x)
    return np.asarray(x).astype(np.float64)


def integer_to_integer(x: Any, target: ScalarType, saturate: bool) -> Any:
    if not saturate:
        return np.asarray(x).astype(target.dtype)
    limits = np.iinfo(target.dtype)
    x = np.asarray(x)
    own = np.iinfo(x.dtype)
    return np.clip(x, max(limits.min, own.min), min(limits.max, own.max)).astype(target.dtype)


def integer_to_float(x: np.ndarray, target: ScalarType, mode: str, saturate: bool) -> np.ndarray:
    """Integers of 64 bits are split so that float64 holds an exact or round-to-odd value."""
    if x.dtype.itemsize == 8:
        low = (x & x.dtype.type(0xFFFFFFFF)).astype(np.float64)
        high = (x >> x.dtype.type(32)).astype(np.float64) * 2.0**32
        if target.name == "f64" and mode == "rn":
            return high + low
        exact = nx.sum_odd(high, low)
    else:
        exact = x.astype(np.float64)
    if saturate:
        exact = np.clip(exact, 0.0, 1.0)
    if target.name == "f64":
        return exact
    if target.name == "bf16":
        return nx.BF16.encode(exact, saturate=False, mode=mode)
    return nx.round_to(exact, np.float16 if target.name == "f16" else np.float32, mode)


def float_to_float(x: np.ndarray, source: ScalarType, target: ScalarType, how: dict[str, Any]) -> np.ndarray:
    mode = how["mode"]
    if mode in INTEGER_ROUNDINGS:  # to a whole number in the same format
        x, mode = INTEGER_ROUNDINGS[mode](x), "rn"
    mode = mode or "rn"
    if how["sat"]:
        x = np.clip(np.where(np.isnan(x), 0.0, x), 0.0, 1.0)
    if how["relu"]:
        x = np.where(x <= 0, 0.0, x)
    if target.name == "bf16":
        if mode == "rn" and not how["satfinite"]:
            return nx.f64_to_bf16(x)
        return finite_nan(nx.BF16.encode(x, how["satfinite"], mode), x)
    if target.name == "tf32":
        return to_tf32(x, mode, how["satfinite"])
    if target.name == "f64":
        return nx.canonical(x)
    dtype = np.float16 if target.name == "f16" else np.float32
    if how["satfinite"]:
        largest = float(np.finfo(dtype).max)
        x = np.clip(x, -largest, largest)
    result = nx.round_to(x, dtype, mode)
    if how["ftz"] and dtype is np.float32:
        result = nx.flush(result)
    return nx.canonical(result)


def finite_nan(codes: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), nx.NAN16, codes)


def to_tf32(x: np.ndarray, mode: str, satfinite: bool) -> np.ndarray:
    """10 mantissa bits in a float32; the low 13 bits are zero."""
    tf32 = nx.Narrow("tf32", 8, 10, "ieee")
    magnitude = np.abs(x)
    code = tf32_encode(tf32, magnitude, mode, satfinite)
    bits = code.astype(np.uint32) << np.uint32(13) | np.signbit(x).astype(np.uint32) << np.uint32(31)
    return np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits)


def tf32_encode(tf32: nx.Narrow, magnitude: np.ndarray, mode: str, satfinite: bool) -> np.ndarray:
    """19 bits do not fit Narrow.encode's uint16: the magnitude has 18, so the code is taken as float bits instead."""
    single = magnitude.astype(np.float32).view(np.uint32).astype(np.uint64)
    low = single & np.uint64(0x1FFF)
    code = single >> np.uint64(13)
    if mode == "rna":
        code = code + (low >= 0x1000)
    elif mode == "rn":
        code = code + ((low > 0x1000) | ((low == 0x1000) & (code & np.uint64(1) == 1)))
    return np.minimum(code, np.uint64(tf32.top if satfinite else tf32.top + 1))


def float_to_integer(x: np.ndarray, target: ScalarType, rounding: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Out of range: the nearest end. NaN: 0 for up to 32 bits, the top bit for 64 bits."""
    whole = rounding(x)
    limits = np.iinfo(target.dtype)
    low, high = float(limits.min), float(limits.max)  # 2^63 - 1 and 2^64 - 1 round up to the power: handled by >=
    inside = np.where(np.isnan(whole) | (whole >= high) | (whole <= low), 0.0, whole)
    result = inside.astype(target.dtype)
    result = np.where(whole >= high, target.dtype.type(limits.max), np.where(whole <= low, target.dtype.type(limits.min), result))
    if target.size == 8:
        return np.where(np.isnan(whole), np.array(1 << 63, np.uint64).view(target.dtype), result)
    return np.where(np.isnan(whole), target.dtype.type(0), result)


# Packed targets: the first source operand goes to the upper element.


def to_packed(b: Binding, target: ScalarType, source: ScalarType) -> Step:
    mode = b.choice("rn", "rz", "rp", "rs", default="rn")
    if mode == "rs":
        b.fail("stochastic rounding is not supported")
    saturate, relu, ftz = b.flag("satfinite"), b.flag("relu"), b.flag("ftz")
    lanes = b.machine.lanes
    bits, encode = packed_encoder(b, target, mode, saturate)
    destination = b.destination(0, target)
    read = packed_sources(b, source, lanes, ftz)

    def run(active: Active) -> None:
        low, high = read()
        if relu:
            low, high = (np.where(v <= 0, 0.0, v) for v in (low, high))
        dtype = UNSIGNED[target.size]
        codes = encode(low).astype(dtype) | encode(high).astype(dtype) << dtype.type(bits)
        destination.write(codes, active)

    return run


def packed_encoder(b: Binding, target: ScalarType, mode: str, saturate: bool) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """(bits of an element, the function from float64 to codes)."""
    if target.name.startswith("ue8m0"):
        return 8, lambda x: encode_ue8m0(x, mode)
    if target.name in HALVES:
        return 16, lambda x: encode_half(x, target.name, mode, saturate)
    if target.name not in NARROW_X2:
        b.fail(f"conversion to .{target.name} is not supported")
    if not saturate:
        b.fail("conversions to narrow floats need .satfinite")
    fmt = NARROW_X2[target.name]
    return (4 if fmt.bits == 4 else 8), lambda x: fmt.encode(x, True, mode)


def packed_sources(b: Binding, source: ScalarType, lanes: int, ftz: bool) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that gives the (low, high) elements as float64."""
    if source.name == "f32":
        upper, lower = b.source(1, source), b.source(2, source)
        return lambda: tuple(np.broadcast_to(widen(v, source, ftz), (lanes,)) for v in (lower, upper))  # type: ignore[return-value]
    x = b.source(1, source)

    def halves() -> tuple[np.ndarray, np.ndarray]:
        whole = np.ascontiguousarray(np.broadcast_to(x, (lanes,)))
        if source.name in HALVES:
            parts = whole.view(np.uint16).reshape(lanes, 2)
            if source.name == "f16x2":
                values = parts.view(np.float16).astype(np.float64)
            else:
                values = nx.bf16_to_f32(parts).astype(np.float64)
            return values[:, 0], values[:, 1]
        if source.name == "e2m1x2":
            table = nx.TABLES["e2m1"]
            return table[whole & 15], table[whole >> 4]
        parts = whole.view(np.uint8).reshape(lanes, 2)
        table = nx.TABLES[source.name.removesuffix("x2")]
        table = np.resize(table, 256) if len(table) < 256 else table
        return table[parts[:, 0]], table[parts[:, 1]]

    if source.name not in HALVES and source.name not in NARROW_X2 and source.name != "ue8m0x2":
        b.fail(f"conversion from .{source.name} is not supported")
    return halves


def encode_half(x: np.ndarray, name: str, mode: str, saturate: bool) -> np.ndarray:
    if name == "bf16x2":
        codes = nx.f64_to_bf16(x) if mode == "rn" and not saturate else nx.BF16.encode(x, saturate, mode)
    else:
        codes = nx.round_to(x, np.float16, mode).view(np.uint16) if not saturate else nx.F16.encode(x, True, mode)
    return np.where(np.isnan(x), nx.NAN16, codes)


def encode_ue8m0(x: np.ndarray, mode: str) -> np.ndarray:
    """The power of two of the magnitude, rounded up (rp) or toward zero (rz); 255 is NaN."""
    fraction, exponent = np.frexp(np.abs(x))
    power = exponent - 1 + ((fraction > 0.5) if mode == "rp" else 0)
    code = np.clip(power + 127, 0, 254)
    code = np.where(x == 0, 0, np.where(np.isinf(x), 254, code))
    return np.where(np.isnan(x), 255, code).astype(np.uint16)


@instruction("cvt.pack")
def cvt_pack(b: Binding) -> Step:
    """cvt.pack.sat.u8.s32.b32 d, a, b, c: two saturated integers below what was packed before."""
    previous = b.type() if len(b.operands) == 4 else None
    source, target = b.type(), b.type()
    b.flag("sat")
    destination = b.destination(0, TYPES["u32"])
    upper, lower = b.source(1, source), b.source(2, source)
    rest = b.source(3, TYPES["u32"]) if previous is not None else np.uint32(0)

    def run(active: Active) -> None:
        high, low = (integer_to_integer(v, target, True).view(UNSIGNED[target.size]).astype(np.uint32) for v in (upper, lower))
        packed = low | high << np.uint32(target.bits)
        if target.bits < 16:
            packed = packed | np.asarray(rest) << np.uint32(2 * target.bits)
        destination.write(packed, active)

    return run
