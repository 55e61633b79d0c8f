"""Integer and floating-point arithmetic: add sub mul mad fma div rem abs neg min max sqrt rcp rsqrt ex2 lg2 sin cos tanh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import numerics as nx
from ..binding import Binding, Step, instruction
from ..registers import SIGNED, TYPES, UNSIGNED, Active, ScalarType

ROUNDINGS = ("rn", "rz", "rm", "rp")
PACKED = {"f16x2": "f16", "bf16x2": "bf16", "f32x2": "f32", "u16x2": "u16", "s16x2": "s16"}
PLAIN = {"mode": "rn", "ftz": False, "sat": False}
Function = Callable[..., Any]


def is_float(name: str) -> bool:
    return "f" in name and name != "pred"


def elementwise(b: Binding, kind: ScalarType, function: Function, sources: int) -> Step:
    """D = function(a, b, ...) lane by lane, all of one type; packed types element by element."""
    name = kind.name
    element = TYPES[PACKED.get(name, name)]
    destination = b.destination(0, kind)
    operands = [b.source(1 + i, kind) for i in range(sources)]
    lanes = b.machine.lanes

    def unpack(source: Any) -> np.ndarray:
        if name not in PACKED:
            return source
        whole = np.ascontiguousarray(np.broadcast_to(source, (lanes,)))
        return whole.view(element.dtype)

    def run(active: Active) -> None:
        result = function(*[unpack(x) for x in operands])
        if name in PACKED:
            result = np.ascontiguousarray(result, element.dtype).view(kind.dtype)
        destination.write(result, active)

    return run


def floating(
    name: str, compute: Function, mode: str = "rn", ftz: bool = False, sat: bool = False, relu: bool = False
) -> Function:
    """Wrap a function on float64 (giving exact or round-to-odd results) for operands of a float type."""

    def wide(x: Any) -> np.ndarray:
        if name.startswith("bf16"):
            x = nx.bf16_to_f32(x)
        x = np.asarray(x)
        if ftz and x.dtype == np.float32:
            x = nx.flush(x)
        return x.astype(np.float64)

    def run(*sources: Any) -> np.ndarray:
        exact = compute(*[wide(x) for x in sources])
        if relu:
            exact = np.where(exact <= 0, 0.0, exact)
        if sat:  # NaN becomes 0
            exact = np.clip(np.where(np.isnan(exact), 0.0, exact), 0.0, 1.0)
        if name.startswith("bf16"):
            return nx.f64_to_bf16(exact)
        dtype = {"f16": np.float16, "f32": np.float32, "f64": np.float64}[name.removesuffix("x2")]
        result = exact if dtype is np.float64 else nx.round_to(exact, dtype, mode)
        if ftz and dtype is np.float32:
            result = nx.flush(result)
        return nx.canonical(result)

    return run


def float_modifiers(b: Binding) -> dict[str, Any]:
    mode = b.choice(*ROUNDINGS, default="rn")
    return {"mode": mode, "ftz": b.flag("ftz"), "sat": b.flag("sat")}


def float_binary(b: Binding, kind: ScalarType, native: np.ufunc, exact: Function) -> Step:
    """Add, subtract, multiply: NumPy's own float32 and float64 when they round to nearest."""
    how = float_modifiers(b)
    if kind.name in ("f32", "f64", "f32x2") and how == PLAIN:
        return elementwise(b, kind, lambda x, y: nx.canonical(native(x, y)), 2)
    if kind.name == "f64":
        b.fail("only round to nearest is supported for .f64")
    return elementwise(b, kind, floating(PACKED.get(kind.name, kind.name), exact, **how), 2)


def mixed_precision(b: Binding, narrow: ScalarType, compute: Function, sources: int) -> Step:
    """A .f32 result of .f16 or .bf16 operands and, last, one of .f32 (sm_100 and later)."""
    function = floating("f32", compute, mode=b.choice(*ROUNDINGS, default="rn"), sat=b.flag("sat"))
    single = TYPES["f32"]
    destination, last = b.destination(0, single), b.source(sources, single)
    operands = [b.source(1 + i, narrow) for i in range(sources - 1)]
    widen = nx.bf16_to_f32 if narrow.name == "bf16" else lambda x: np.asarray(x).astype(np.float32)
    return lambda active: destination.write(function(*[widen(x) for x in operands], last), active)


@instruction("add", "sub")
def add(b: Binding) -> Step:
    kind = b.type()
    subtract = b.instruction.opcode == "sub"
    if is_float(kind.name):
        exact = (lambda x, y: nx.sum_odd(x, -y)) if subtract else nx.sum_odd
        if kind.name in ("f16", "bf16") and b.flag("f32"):
            return mixed_precision(b, kind, exact, 2)
        return float_binary(b, kind, np.subtract if subtract else np.add, exact)
    if b.flag("sat"):
        return elementwise(b, kind, saturating(-1 if subtract else 1), 2)
    if b.flag("cc"):
        return with_carry(b, kind, subtract, reads=False, writes=True)
    if kind.name in PACKED:
        return elementwise(b, kind, np.subtract if subtract else np.add, 2)
    return ufunc(b, kind, np.subtract if subtract else np.add)


@instruction("addc", "subc")
def add_with_carry(b: Binding) -> Step:
    kind = b.type()
    return with_carry(b, kind, b.instruction.opcode == "subc", reads=True, writes=b.flag("cc"))


def ufunc(b: Binding, kind: ScalarType, function: np.ufunc) -> Step:
    """The fast path of integer instructions: straight into the register."""
    destination, x, y = b.destination(0, kind), b.source(1, kind), b.source(2, kind)
    if not destination.exact:
        return lambda active: destination.write(function(x, y), active)
    out = destination.array
    return lambda active: function(x, y, out=out, where=active.where)


def saturating(sign: int) -> Function:
    def run(x: Any, y: Any) -> np.ndarray:
        return np.clip(x.astype(np.int64) + sign * y.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32)

    return run


def with_carry(b: Binding, kind: ScalarType, subtract: bool, reads: bool, writes: bool) -> Step:
    machine = b.machine
    unsigned = TYPES[f"u{kind.bits}"]
    destination, x, y = b.destination(0, unsigned), b.source(1, unsigned), b.source(2, unsigned)

    def run(active: Active) -> None:
        carry = machine.family_state("carry", lambda: np.zeros(machine.lanes, bool))
        incoming = carry.astype(unsigned.dtype) if reads else unsigned.dtype.type(0)
        first = np.broadcast_to(x - y if subtract else x + y, (machine.lanes,))
        result = first - incoming if subtract else first + incoming
        out = (x < y) | (first < incoming) if subtract else (first < x) | (result < first)
        destination.write(result, active)
        if writes:
            np.copyto(carry, out, where=active.where)

    return run


@instruction("mul", "mad")
def mul(b: Binding) -> Step:
    kind = b.type()
    if is_float(kind.name):
        if b.instruction.opcode == "mad":
            return fma_step(b, kind)
        return float_binary(b, kind, np.multiply, np.multiply)
    part = b.required("lo", "hi", "wide")
    accumulate = b.instruction.opcode == "mad"
    if part == "lo" and not accumulate:
        return ufunc(b, kind, np.multiply)
    result = TYPES[f"{kind.kind}{2 * kind.bits}"] if part == "wide" else kind
    destination, x, y = b.destination(0, result), b.source(1, kind), b.source(2, kind)
    z = b.source(3, result) if accumulate else None

    def run(active: Active) -> None:
        if part == "lo":
            value = np.multiply(x, y)
        elif part == "wide":
            value = np.multiply(x, y, dtype=result.dtype)
        else:
            value = high_product(x, y, kind)
        destination.write(value if z is None else value + z, active)

    return run


def high_product(x: Any, y: Any, kind: ScalarType) -> np.ndarray:
    if kind.size < 8:
        wide = (SIGNED if kind.kind == "s" else UNSIGNED)[2 * kind.size]
        return (np.multiply(x, y, dtype=wide) >> wide.type(kind.bits)).astype(kind.dtype)
    shift, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, c = np.asarray(x).view(np.uint64), np.asarray(y).view(np.uint64)
    cross = (a & low) * (c & low)
    middle = (a >> shift) * (c & low) + (cross >> shift)
    other = (a & low) * (c >> shift) + (middle & low)
    high = (a >> shift) * (c >> shift) + (middle >> shift) + (other >> shift)
    if kind.kind == "s":
        zero = np.uint64(0)
        high = high - np.where(np.asarray(x) < 0, c, zero) - np.where(np.asarray(y) < 0, a, zero)
    return high.view(kind.dtype)


@instruction("mul24", "mad24")
def mul24(b: Binding) -> Step:
    kind = b.type()
    if b.required("lo", "hi") == "hi":
        b.fail("only .lo is supported")
    cut = (lambda v: v & np.uint32(0xFFFFFF)) if kind.kind == "u" else (lambda v: (v << np.int32(8)) >> np.int32(8))
    if b.instruction.opcode == "mul24":
        return elementwise(b, kind, lambda x, y: cut(x) * cut(y), 2)
    return elementwise(b, kind, lambda x, y, z: cut(x) * cut(y) + z, 3)


@instruction("fma")
def fma(b: Binding) -> Step:
    kind = b.type()
    if kind.name in ("f16", "bf16") and b.flag("f32"):
        return mixed_precision(b, kind, nx.fma_odd, 3)
    return fma_step(b, kind)


def fma_step(b: Binding, kind: ScalarType) -> Step:
    how = float_modifiers(b)
    relu = b.flag("relu")
    if kind.name == "f64":
        if how["mode"] != "rn":
            b.fail("only round to nearest is supported for .f64")
        return elementwise(b, kind, lambda x, y, z: nx.canonical(nx.fma_f64(x, y, z)), 3)
    return elementwise(b, kind, floating(PACKED.get(kind.name, kind.name), nx.fma_odd, relu=relu, **how), 3)


@instruction("div")
def div(b: Binding) -> Step:
    kind = b.type()
    if not is_float(kind.name):
        return integer_division(b, kind, remainder=False)
    b.ignore("approx", "full")  # at most 2 ulp; the emulator gives the nearest
    how = float_modifiers(b)
    if kind.name == "f64" or how == PLAIN:
        return elementwise(b, kind, lambda x, y: nx.canonical(np.true_divide(x, y)), 2)
    return elementwise(b, kind, floating(kind.name, quotient_odd, **how), 2)


def quotient_odd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Float32 operands in float64: the remainder is exact, its sign says which way the quotient was cut."""
    quotient = x / y
    # quotient * y has up to 77 bits: the quotient is split so that both partial products are exact.
    high = (np.ascontiguousarray(quotient).view(np.int64) & np.int64(-(1 << 27))).view(np.float64)
    inside = np.isfinite(quotient) & np.isfinite(y) & (y != 0)
    remainder = np.where(inside, (x - high * y) - (quotient - high) * y, 0.0)
    return nx.to_odd(quotient, remainder * np.sign(y))


@instruction("rem")
def rem(b: Binding) -> Step:
    return integer_division(b, b.type(), remainder=True)


def integer_division(b: Binding, kind: ScalarType, remainder: bool) -> Step:
    """Truncating; a zero divisor gives all ones (the quotient) or the dividend, as the hardware's sequence does."""

    def run(x: Any, y: Any) -> np.ndarray:
        zero = y == 0
        divisor = np.where(zero, kind.dtype.type(1), y)
        rest = np.fmod(x, divisor)
        if remainder:
            return np.where(zero, x, rest)
        return np.where(zero, ~kind.dtype.type(0), (x - rest) // divisor).astype(kind.dtype)

    return elementwise(b, kind, run, 2)


@instruction("abs", "neg")
def abs_neg(b: Binding) -> Step:
    kind = b.type()
    ftz = b.flag("ftz")
    negate = b.instruction.opcode == "neg"
    if not is_float(kind.name):
        return elementwise(b, kind, np.negative if negate else np.abs, 1)
    element = TYPES[PACKED.get(kind.name, kind.name)]
    sign = UNSIGNED[element.size].type(1 << (element.bits - 1))

    def run(x: Any) -> np.ndarray:
        x = nx.flush(x) if ftz and element.name == "f32" else x
        bits = np.asarray(x).view(UNSIGNED[element.size])
        return (bits ^ sign if negate else bits & ~sign).view(element.dtype)

    return elementwise(b, kind, run, 1)


@instruction("min", "max")
def min_max(b: Binding) -> Step:
    kind = b.type()
    least = b.instruction.opcode == "min"
    if not is_float(kind.name):
        relu = b.flag("relu")
        pick = np.minimum if least else np.maximum
        if kind.name not in PACKED and not relu:
            return ufunc(b, kind, pick)
        return elementwise(b, kind, (lambda x, y: np.maximum(pick(x, y), 0)) if relu else pick, 2)
    ftz, propagate = b.flag("ftz"), b.flag("NaN")
    magnitude = b.flag("xorsign")
    if magnitude:
        b.flag("abs")
    element = PACKED.get(kind.name, kind.name)
    sources = len(b.operands) - 1  # sm_100 has three-input forms

    def run(*values: Any) -> np.ndarray:
        result = values[0]
        for other in values[1:]:
            result = select_extreme(result, other, element, least, propagate, ftz, magnitude)
        return result

    return elementwise(b, kind, run, sources)


def select_extreme(x: Any, y: Any, element: str, least: bool, propagate: bool, ftz: bool, magnitude: bool) -> np.ndarray:
    """Min or max of floats: -0 < +0; NaN loses unless `propagate`."""
    a, c = (nx.bf16_to_f32(v) if element == "bf16" else np.asarray(v) for v in (x, y))
    if ftz and element == "f32":
        a, c = nx.flush(a), nx.flush(c)
    sign = np.signbit(a) ^ np.signbit(c)
    if magnitude:
        a, c = np.abs(a), np.abs(c)
    if least:
        first = (a < c) | ((a == c) & np.signbit(a))
    else:
        first = (a > c) | ((a == c) & ~np.signbit(a))
    nan_a, nan_c = np.isnan(a), np.isnan(c)
    result = np.where((first | nan_c) & ~nan_a, a, c)
    if magnitude:
        result = np.copysign(result, np.where(sign, -1, 1).astype(result.dtype))
    nan = (nan_a | nan_c) if propagate else (nan_a & nan_c)
    if element == "bf16":
        bits = (np.ascontiguousarray(result).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return np.where(nan, nx.NAN16, bits)
    return np.where(nan, {2: nx.NAN16.view(np.float16), 4: nx.NAN32, 8: nx.NAN64}[result.dtype.itemsize], result)


# Functions of one argument. The approximate ones give the nearest float32; the hardware is allowed 1 to 2 ulp.


def unary(b: Binding, function: Function) -> Step:
    kind = b.type()
    b.ignore("approx", "full", "ftz64")
    how = float_modifiers(b)
    if kind.name == "f64":
        return elementwise(b, kind, lambda x: nx.canonical(function(x)), 1)
    if kind.name == "f32" and how == PLAIN and b.instruction.opcode == "sqrt":  # NumPy's is correctly rounded
        return elementwise(b, kind, lambda x: nx.canonical(np.sqrt(x)), 1)
    return elementwise(b, kind, floating(PACKED.get(kind.name, kind.name), function, **how), 1)


def sqrt_odd(x: np.ndarray) -> np.ndarray:
    """Float32 in float64: the root of a 24-bit number is either exact or far from the midpoint of float32's neighbours."""
    return np.sqrt(x)


UNARY: dict[str, Function] = {
    "sqrt": sqrt_odd,
    "rcp": lambda x: quotient_odd(np.ones_like(x), x),
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def _register_unary() -> None:
    for name, function in UNARY.items():
        instruction(name)(lambda b, function=function: unary(b, function))


_register_unary()


@instruction("copysign")
def copysign(b: Binding) -> Step:
    kind = b.type()
    return elementwise(b, kind, lambda sign, x: np.copysign(x, sign), 2)


@instruction("testp")
def testp(b: Binding) -> Step:
    kind = b.type()
    what = b.required("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    destination, x = b.destination(0, TYPES["pred"]), b.source(1, kind)
    smallest = np.finfo(kind.dtype).tiny
    tests: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda v: ~np.isnan(v),
        "notanumber": np.isnan,
        "normal": lambda v: np.isfinite(v) & (np.abs(v) >= smallest),
        "subnormal": lambda v: (v != 0) & (np.abs(v) < smallest),
    }
    return lambda active: destination.write(tests[what](x), active)
