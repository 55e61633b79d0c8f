"""Instruction descriptors of tcgen05.mma: 32 bits that say shapes, formats and majors (PTX ISA, "Instruction descriptor").

bits  0-1   sparsity selector       bit   2    sparse
bit   3     saturate (i8)           bits  4-5  format of D; with block scales, byte of B's scales
bits  7-9   format of A             bits 10-12 format of B
bits 13, 14 negate A, B             bits 15, 16 A, B is MN-major
bits 17-22  N >> 3                  bit  23    with block scales, their format: 1 UE8M0, 0 UE4M3
bits 24-28  M >> 4                  bits 29-30 with block scales, byte of A's scales; else 30-31 shift of .ws
bit  31     mxf4, mxf4nvf4: K = 96
"""

from __future__ import annotations

from dataclasses import dataclass

from .syntax import PTXError

NARROW = {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}
FORMATS = {
    "f16": {0: "f16", 1: "bf16"},
    "tf32": {2: "tf32"},
    "f8f6f4": NARROW,
    "i8": {0: "u8", 1: "s8"},
    "mxf8f6f4": NARROW,
    "mxf4": {1: "e2m1x2"},
    "mxf4nvf4": {1: "e2m1x2"},
}
RESULTS = {"f16": {0: "f16", 1: "f32"}, "tf32": {1: "f32"}, "f8f6f4": {0: "f16", 1: "f32"}, "i8": {2: "s32"}}
BYTES = {"f16": 2, "bf16": 2, "tf32": 4}  # of an element in shared memory; others have one, or share it
MN_MAJOR = ("f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8")  # the formats that may be


@dataclass(frozen=True)
class InstructionDescriptor:
    """The fields. `scale_bytes`: the first byte of A's and B's scales in their words."""

    m: int
    n: int
    d: str
    a: str
    b: str
    negate: tuple[bool, bool]
    mn_major: tuple[bool, bool]
    saturate: bool = False
    scale: str = ""  # ue8m0, ue4m3
    scale_bytes: tuple[int, int] = (0, 0)


def decode(bits: int, kind: str, blocks: int) -> InstructionDescriptor:
    """`blocks`: scales of a row for one instruction, 0 without block scales. PTXError says what makes no sense."""
    field = lambda low, width: bits >> low & (1 << width) - 1  # noqa: E731
    if field(0, 3):
        raise PTXError("sparse operands are not supported")
    formats = FORMATS[kind]
    a, b = formats.get(field(7, 3)), formats.get(field(10, 2 if kind.startswith("mxf4") else 3))
    if a is None or b is None:
        raise PTXError(f"formats {field(7, 3)} of A and {field(10, 3)} of B: kind::{kind} has {formats}")
    m, n = field(24, 5) << 4, field(17, 6) << 3
    if m not in ((128,) if blocks else (64, 128)):
        raise PTXError(f"M = {m}; cta_group::1 has {'128' if blocks else '64 and 128'} for kind::{kind}")
    if not 8 <= n <= 256 or n % (16 if m == 128 and not blocks else 8):
        raise PTXError(f"N = {n}; it is a multiple of {16 if m == 128 and not blocks else 8} up to 256")
    negate, major = (bool(field(13, 1)), bool(field(14, 1))), (bool(field(15, 1)), bool(field(16, 1)))
    for name, form, flag in (("A", a, major[0]), ("B", b, major[1])):
        if flag and form not in MN_MAJOR:
            raise PTXError(f"{name} is MN-major, which {form} cannot be")
    if blocks:
        if field(31, 1):
            raise PTXError("K = 96 is not supported")
        scale = "ue8m0" if field(23, 1) else "ue4m3"
        if scale == "ue4m3" and not (kind == "mxf4nvf4" and blocks == 4):
            raise PTXError(f"scales in UE4M3 do not exist for kind::{kind} with {blocks} scales a row")
        first = field(29, 2), field(4, 2)
        if any(f % blocks or f + blocks > 4 for f in first):
            raise PTXError(f"scales start at bytes {first}; with {blocks} a row it must be a multiple of {blocks}")
        return InstructionDescriptor(m, n, "f32", a, b, negate, major, False, scale, first)
    d = RESULTS[kind].get(field(4, 2))
    if d is None or (d == "f16" and "bf16" in (a, b)):
        raise PTXError(f"format {field(4, 2)} of D does not go with {a} and {b}")
    return InstructionDescriptor(m, n, d, a, b, negate, major, bool(field(3, 1)))
