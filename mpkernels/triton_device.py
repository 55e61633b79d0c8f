"""Device functions that several Triton kernels call."""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl

from .formats import HIGH_PRECISION_DTYPES, format_of

POINTED = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}  # what a table's addresses point to


def _first_infinite(dtype: torch.dtype) -> int:
    """The bits of the least float32 magnitude that rounds to Inf: half a unit in the last place above the largest number."""
    largest = torch.tensor(format_of(dtype).max)
    return int(largest.view(torch.int32)) + (1 << (22 - format_of(dtype).mantissa_bits) if dtype != torch.float32 else 1)


FIRST_INFINITE = {dtype: _first_infinite(dtype) for dtype in HIGH_PRECISION_DTYPES}


def float64_bits(value: float) -> int:
    """A float64 argument as an integer: Triton passes Python floats as float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@triton.jit
def as_float64(bits):
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def magnitude_bits(x):
    """|float32(x)| as int32. As integers they are ordered like the magnitudes, with NaN above Inf."""
    return x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def encode_in_integers(x, quant_scale, E5M2: tl.constexpr):
    """A normal result is the product's bits with the exponent rebiased and rounded at the last kept bit (20 or 21 fall away).

    Adding half an ulp less one, plus the kept bit's parity, carries exactly when round-half-even does. Below the smallest normal,
    the FP32 addition of a power of two whose ulp is the format's subnormal step rounds. NaN is 0x7f, with the sign of the
    factors, which conversions of NaN do not keep: it comes from the bits of x.
    """
    wide = x.to(tl.float32)
    bits = (wide * quant_scale).to(tl.int32, bitcast=True)
    if x.dtype == tl.float32:
        sign_of_x = x.to(tl.int32, bitcast=True) >> 24
    else:
        sign_of_x = x.to(tl.int16, bitcast=True).to(tl.int32) >> 8
    sign = (sign_of_x ^ (quant_scale.to(tl.int32, bitcast=True) >> 24)) & 0x80
    a = bits & 0x7FFFFFFF
    if E5M2:
        code = ((a + 0xFFFFF + ((a >> 21) & 1)) >> 21) - ((127 - 15) << 2)
        tiny = (a.to(tl.float32, bitcast=True) + 128.0).to(tl.int32, bitcast=True) - 0x43000000  # ulp(2^7) = 2^-16
        code = tl.where(a < 0x38800000, tiny, code)  # 2^-14
        code = tl.where(a >= 0x47600000, 0x7B, code)  # 57344
    else:
        code = ((a + 0x7FFFF + ((a >> 20) & 1)) >> 20) - ((127 - 7) << 3)
        tiny = (a.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000  # ulp(2^14) = 2^-9
        code = tl.where(a < 0x3C800000, tiny, code)  # 2^-6
        code = tl.where(a >= 0x43E00000, 0x7E, code)  # 448
    code = tl.where(a > 0x7F800000, 0x7F, code)
    return (code | sign).to(tl.uint8)


# Of 4 elements: products $1 to $4, x from $5 on (two 16-bit elements a register, or one), then whether quant_scale is negative as
# all ones or zeros. The instruction loses the sign of a NaN, so signs come from the factors; all others have theirs already.
ENCODE_16 = """{
    .reg .b16 low, high;
    .reg .b32 codes, signs;
    cvt.rn.satfinite.FORMATx2.f32 low, $2, $1;
    cvt.rn.satfinite.FORMATx2.f32 high, $4, $3;
    mov.b32 codes, {low, high};
    prmt.b32 signs, $5, $6, 0x7531;
    xor.b32 signs, signs, $7;
    and.b32 signs, signs, 0x80808080;
    or.b32 $0, codes, signs;
}"""
ENCODE_32 = """{
    .reg .b16 low, high;
    .reg .b32 codes, signs, others;
    cvt.rn.satfinite.FORMATx2.f32 low, $2, $1;
    cvt.rn.satfinite.FORMATx2.f32 high, $4, $3;
    mov.b32 codes, {low, high};
    prmt.b32 signs, $5, $6, 0x0073;
    prmt.b32 others, $7, $8, 0x0073;
    prmt.b32 signs, signs, others, 0x5410;
    xor.b32 signs, signs, $9;
    and.b32 signs, signs, 0x80808080;
    or.b32 $0, codes, signs;
}"""
E4M3_16, E5M2_16 = (tl.constexpr(ENCODE_16.replace("FORMAT", name)) for name in ("e4m3", "e5m2"))
E4M3_32, E5M2_32 = (tl.constexpr(ENCODE_32.replace("FORMAT", name)) for name in ("e4m3", "e5m2"))
CONVERTS_FP8 = 89  # the first sm with the instruction


@triton.jit
def encode(x, quant_scale, E5M2: tl.constexpr, BY_INSTRUCTION: tl.constexpr):
    """saturate(RNE(float32(x) * quant_scale)) as uint8: NVIDIA's instruction from sm_89 on, else integer code.

    It is written as assembly since Triton's own casts differ by version and architecture (3.8 rounds twice on sm_89).
    """
    if BY_INSTRUCTION:
        product = x.to(tl.float32) * quant_scale
        negative = quant_scale.to(tl.int32, bitcast=True) >> 31
        if x.dtype == tl.float32:
            code = tl.inline_asm_elementwise(
                E5M2_32 if E5M2 else E4M3_32, "=r" + ",r" * 12, [product, x, negative], tl.uint8, is_pure=True, pack=4
            )
        else:
            code = tl.inline_asm_elementwise(
                E5M2_16 if E5M2 else E4M3_16, "=r" + ",r" * 10, [product, x, negative], tl.uint8, is_pure=True, pack=4
            )
    else:
        code = encode_in_integers(x, quant_scale, E5M2)
    return code


@triton.jit
def scales_of(amax, largest, previous, POWER_OF_TWO: tl.constexpr):
    """(quant_scale, dequant_scale) of compute_scale, where `largest` is fp8_max / 2^margin as float64 (a power of two times 7).

    One float64 division, rounded to float32, is correctly rounded: docs/numerics.md.
    """
    quotient = tl.minimum(largest / amax.to(tl.float64), 3.4028234663852886e38)
    if POWER_OF_TWO:
        quotient = (quotient.to(tl.int64, bitcast=True) & -4503599627370496).to(tl.float64, bitcast=True)  # -2^52: no fraction
    usable = (amax > 0) & (amax < float("inf"))
    quant_scale = tl.where(usable, quotient.to(tl.float32), previous)
    dequant_scale = tl.minimum(tl.div_rn(tl.full((), 1.0, tl.float32), quant_scale), 3.4028234663852886e38)
    return quant_scale, dequant_scale
