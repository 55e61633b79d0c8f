"""Matrix products and attention of the Triton corpus.

A float32 accumulator rounds once for each instruction: SUMS, of the largest result, covers some dozens of roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .corpus_work import BF16, E4M3, E5M2, FP32, INT8, INT32, Tensor, Work, cdiv, close, empty, integers, normal, out
from .kernels import triton_attention, triton_kernels, triton_matmul

SUMS = 2.0**-20


def operands(M: int, N: int, K: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Operands a (M, K), b (N, K) and a . b^T exactly."""
    if dtype == INT8:
        a, b = integers(M, K, low=-128, high=128, dtype=INT8), integers(N, K, low=-128, high=128, dtype=INT8, seed=1)
        return a, b, (a.long() @ b.long().T).to(INT32)
    a, b = normal(M, K, dtype=dtype), normal(N, K, dtype=dtype, seed=1)
    if dtype == FP32:  # what TF32 keeps: the product is exact for it
        a, b = ((x.view(INT32) & ~0x1FFF).view(FP32) for x in (a, b))
    return a, b, a.double() @ b.double().T


def tile(block: tuple[int, int, int]) -> dict[str, Any]:
    return dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), block, strict=True))


def check_product(got: Tensor, want: Tensor) -> Callable[[], None]:
    return lambda: (
        torch.testing.assert_close(got, want, rtol=0, atol=0) if got.dtype == INT32 else close(got, want, absolute=SUMS)
    )


def matmul_pointers(
    dtype: torch.dtype,
    block: tuple[int, int, int],
    layout: str = "tn",
    precision: str = "tf32",
    imprecise: int | None = None,
    shape: tuple[int, int, int] = (72, 40, 208),
) -> Work:
    """`layout`: t if the operand lies along K, n if not. Ragged in all dimensions."""
    M, N, K = shape
    a, b, want = operands(M, N, K, dtype)
    if precision != "tf32":
        a, b = normal(M, K), normal(N, K, seed=1)
        want = a.double() @ b.double().T
    a = a if layout[0] == "t" else a.T.contiguous().T
    b = b if layout[1] == "n" else b.T.contiguous().T
    result = empty(M, N, dtype=FP32 if dtype == FP32 else INT32 if dtype == INT8 else BF16)
    options = {**tile(block), "PRECISION": precision, "IMPRECISE": imprecise}
    grid = (cdiv(M, block[0]) * cdiv(N, block[1]),)
    args = (a, b, out(result, "out"), M, N, K, *a.stride(), *b.stride())
    return Work(triton_matmul.by_pointers, grid, args, options, check_product(result, want))


def matmul_split(dtype: torch.dtype, block: tuple[int, int, int]) -> Work:
    M, N, K, split = 80, 48, 272, 3
    a, b, want = operands(M, N, K, dtype)
    result = torch.zeros(M, N)
    options = {**tile(block), "SPLIT": split}
    grid = (cdiv(M, block[0]) * cdiv(N, block[1]), split)
    return Work(triton_matmul.split_depth, grid, (a, b, result, M, N, K), options, check_product(result, want))


def matmul_descriptors(
    dtype: torch.dtype,
    block: tuple[int, int, int],
    kind: str = "host",
    specialize: bool = False,
    flatten: bool = True,
    shape: tuple[int, int, int] = (136, 72, 208),
) -> Work:
    """`kind`: "host" descriptors, "device" descriptors, or "persistent" with host descriptors. Ragged."""
    M, N, K = shape
    a, b, want = operands(M, N, K, dtype)
    result = empty(M, N, dtype=FP32 if dtype == FP32 else BF16)
    options: dict[str, Any] = tile(block)
    tiles = cdiv(M, block[0]) * cdiv(N, block[1])
    check = check_product(result, want)
    if kind == "device":
        return Work(triton_matmul.by_device_descriptors, (tiles,), (a, b, out(result, "out"), M, N, K), options, check)
    maps = [TensorDescriptor.from_tensor(x, [block[i], block[j]]) for x, i, j in ((a, 0, 2), (b, 1, 2), (result, 0, 1))]
    options["WARP_SPECIALIZE"] = specialize
    if kind == "host":
        return Work(triton_matmul.by_descriptors, (tiles,), (*maps, M, N, K), options, check)
    options |= {"PROGRAMS": 2, "FLATTEN": flatten}
    return Work(triton_matmul.persistent, (2,), (*maps, M, N, K), options, check)


def matmul_batched(dtype: torch.dtype) -> Work:
    batch, M, N, K = 4, 32, 16, 64
    a, b = normal(batch, M, K, dtype=dtype), normal(batch, N, K, dtype=dtype, seed=1)
    result = empty(batch, M, N)
    options = {"M": M, "N": N, "K": K}
    check = check_product(result, a.double() @ b.double().mT)
    return Work(triton_matmul.batched, (batch // 2,), (a, b, out(result, "out")), options, check)


def matmul_quantized(dtype: torch.dtype, block: tuple[int, int, int]) -> Work:
    M, N, K = 48, 80, 192
    x, codes = normal(M, K, dtype=dtype), integers(N, K, low=-127, high=128, dtype=INT8)
    scales, result = normal(N, seed=2).abs() + 0.1, empty(M, N, dtype=dtype)
    options = tile(block)
    grid = (cdiv(M, block[0]), cdiv(N, block[1]))
    check = check_product(result, (x.double() @ codes.double().T) * scales.double())
    return Work(triton_matmul.quantized_weights, grid, (x, codes, scales, out(result, "out"), M, N, K), options, check)


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], dtype=torch.float64)


def scaled_operand(rows: int, K: int, kind: str, vector: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales (a byte 2^(e - 127) for 32 elements, E4M3 for 16) and what they mean."""
    if kind == "e2m1":
        nibbles = integers(rows, K, low=0, high=16, seed=seed)
        codes, meaning = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).to(torch.uint8), E2M1[nibbles.long()]
    else:
        codes = normal(rows, K, seed=seed).to(E4M3 if kind == "e4m3" else E5M2)
        meaning = codes.double()
    if vector == 32:
        scales = integers(rows, K // vector, low=120, high=134, dtype=torch.uint8, seed=seed + 7)
        factors = torch.exp2(scales.double() - 127)
    else:
        scales = (normal(rows, K // vector, seed=seed + 7).abs() + 0.25).to(E4M3)
        factors = scales.double()
    return codes, scales, meaning * factors.repeat_interleave(vector, 1)


def matmul_scaled(kinds: tuple[str, str], block: tuple[int, int, int], vector: int = 32) -> Work:
    M, N, K = 2 * block[0], block[1], 2 * block[2]
    a, a_scales, x = scaled_operand(M, K, kinds[0], vector, 1)
    b, b_scales, y = scaled_operand(N, K, kinds[1], vector, 2)
    result = empty(M, N)
    options = {**tile(block), "A_FORMAT": kinds[0], "B_FORMAT": kinds[1], "VECTOR": vector}
    args = (a, a_scales, b, b_scales, out(result, "out"), N, K)
    return Work(triton_kernels.scaled_matmul, (2, 1), args, options, check_product(result, x @ y.T))


def attention(
    dtype: torch.dtype,
    head: int,
    block: tuple[int, int],
    causal: bool = False,
    descriptors: bool = False,
    specialize: bool = False,
) -> Work:
    heads, length = 2, 2 * max(block) if descriptors else 100
    q, k, v = (normal(heads, length, head, dtype=dtype, seed=i) for i in range(3))
    result, logsum = empty(heads, length, head, dtype=dtype), empty(heads, length)
    scores = q.double() @ k.double().mT * head**-0.5
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    want = scores.softmax(-1) @ v.double()
    options = {"HEAD": head, "BLOCK_M": block[0], "BLOCK_N": block[1]}
    grid = (cdiv(length, block[0]), heads)

    def check() -> None:
        # The probabilities are rounded to the type: each weight errs by half a rounding, so does the result.
        close(result, want, absolute=torch.finfo(dtype).eps)
        if not descriptors:
            close(logsum, scores.logsumexp(-1) / torch.log(torch.tensor(2.0)), absolute=2.0**-20)

    if descriptors:
        flat = [x.view(-1, head) for x in (q, k, v, result)]
        maps = [
            TensorDescriptor.from_tensor(x, [n, head])
            for x, n in zip(flat, (block[0], block[1], block[1], block[0]), strict=True)
        ]
        options["WARP_SPECIALIZE"] = specialize
        return Work(triton_attention.attention_by_descriptors, grid, (*maps, length, head**-0.5), options, check)
    options["CAUSAL"] = causal
    args = (q, k, v, out(result, "out"), out(logsum, "logsum"), length, head**-0.5)
    return Work(triton_attention.attention, grid, args, options, check)
