"""scaled_mm: FP8 a (M, K), b (N, K) -> (a @ b^T) * scales + bias. The GEMM of FP8 linear layers, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...checks import check_device, check_disjoint, check_dtype, check_k_major, check_scalar
from ...dispatch import Op
from ...formats import FP8_DTYPES, HIGH_PRECISION_DTYPES


def _check_operands(a: Tensor, b: Tensor, dequant_scale_a: Tensor, dequant_scale_b: Tensor, bias: Tensor | None) -> None:
    check_dtype("a", a.dtype, FP8_DTYPES)
    check_dtype("b", b.dtype, FP8_DTYPES)
    if a.dim() != 2:
        raise ValueError(f"a must have shape (M, K), got {tuple(a.shape)}")
    if b.dim() != 2 or b.shape[1] != a.shape[1]:
        raise ValueError(f"b must have shape (N, K) with a's K = {a.shape[1]}, got {tuple(b.shape)}")
    check_k_major("a", a)
    check_k_major("b", b)
    device = a.device
    check_device("b", b, device)
    check_scalar("dequant_scale_a", dequant_scale_a, device)
    check_scalar("dequant_scale_b", dequant_scale_b, device)
    if bias is not None:
        check_dtype("bias", bias.dtype, HIGH_PRECISION_DTYPES)
        if bias.dim() != 1 or bias.shape[0] != b.shape[0]:
            raise ValueError(f"bias must have shape ({b.shape[0]},), one value for each row of b, got {tuple(bias.shape)}")
        check_device("bias", bias, device)


def _check(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    out_dtype: torch.dtype,
    bias: Tensor | None,
    use_fast_accum: bool,
) -> None:
    _check_operands(a, b, dequant_scale_a, dequant_scale_b, bias)
    check_dtype("out_dtype", out_dtype, HIGH_PRECISION_DTYPES)


def _check_out(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    bias: Tensor | None,
    out: Tensor,
    accumulate: bool,
    use_fast_accum: bool,
) -> None:
    _check_operands(a, b, dequant_scale_a, dequant_scale_b, bias)
    M, N = a.shape[0], b.shape[0]
    check_dtype("out", out.dtype, HIGH_PRECISION_DTYPES)
    if out.shape != (M, N):
        raise ValueError(f"out must have shape ({M}, {N}), got {tuple(out.shape)}")
    check_device("out", out, a.device)
    pitch, step = out.stride()
    if (N > 1 and step != 1) or (M > 1 and pitch < N):
        raise ValueError(f"out must be row-major, with strides (>= {N}, 1), got {tuple(out.stride())}")
    for name, tensor in (("a", a), ("b", b), ("bias", bias)):
        if tensor is not None:
            check_disjoint(name, tensor, "out", out)


def _outputs(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    out_dtype: torch.dtype,
    bias: Tensor | None,
    use_fast_accum: bool,
) -> tuple[Tensor]:
    return (a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype),)


def _arguments(
    outputs: tuple[Tensor, ...],
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    out_dtype: torch.dtype,
    bias: Tensor | None,
    use_fast_accum: bool,
) -> tuple[Any, ...]:
    return a, b, dequant_scale_a, dequant_scale_b, bias, outputs[0] if outputs else None, False, use_fast_accum


def _example(device: torch.device) -> tuple[Any, ...]:
    a = torch.linspace(-2, 2, 24, device=device).view(3, 8).to(torch.float8_e5m2)
    b = torch.linspace(-2, 2, 40, device=device).view(5, 8).to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    return a, b, one, one, torch.float32


def _example_out(device: torch.device) -> tuple[Any, ...]:
    return *_example(device)[:4], None, torch.zeros(3, 5, device=device)


op = Op(
    "scaled_mm(Tensor a, Tensor b, Tensor dequant_scale_a, Tensor dequant_scale_b, ScalarType out_dtype, Tensor? bias=None,"
    " bool use_fast_accum=False) -> Tensor",
    check=_check,
    outputs=_outputs,
    arguments=_arguments,
    example=_example,
    defaults={"out_dtype": torch.bfloat16},
    package=__name__,
)
op_out = Op(
    "scaled_mm_out(Tensor a, Tensor b, Tensor dequant_scale_a, Tensor dequant_scale_b, Tensor? bias, Tensor(a!) out,"
    " bool accumulate=False, bool use_fast_accum=False) -> ()",
    check=_check_out,
    example=_example_out,
    package=__name__,
)


def scaled_mm(
    a: Tensor,
    b: Tensor,
    dequant_scale_a: Tensor,
    dequant_scale_b: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    accumulate: bool = False,
    use_fast_accum: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The product of two FP8 matrices, both with K as their last dimension, scaled back to real values:

        out[i, j] = (sum_k a[i, k] * b[j, k]) * (dequant_scale_a * dequant_scale_b) + bias[j] [+ out[i, j]]

    Args:
        a: (M, K), float8_e4m3fn | float8_e5m2. M, N and K may be any size, 0 included. Elements adjacent along K; rows any
            distance apart. Rows that begin at multiples of 16 bytes, as `quantize` makes them, are read in place; the GPU
            backends copy an operand whose rows do not, or overlap.
        b: (N, K), float8_e4m3fn | float8_e5m2, which need not be a's; same device; layout as a's.
        dequant_scale_a, dequant_scale_b: () float32, same device. They multiply the FP8 values.
        bias: (N,), float32 | bfloat16 | float16, or None.
        out_dtype: bfloat16 | float16 | float32. With `out` it must be out's dtype, or be left alone.
        out: (M, N) to write to and return. Row-major; rows may be further apart than N. It must not overlap a, b or bias.
        accumulate: add to what `out` holds, as for a gradient over micro-batches. Needs `out`.
        use_fast_accum: let tensor cores keep their own accumulator over all of K instead of promoting it to FP32 every
            128. A hint: the CPU and reference backends always accumulate in FP32 or better.
        backend: None picks the first able backend; a name runs that one or raises.

    Returns:
        (M, N) of out_dtype, or `out`.

    Numerics:
        The products are exact and are summed in FP32. The epilogue is FP32, in the order of the formula: the product of the
        scales, its multiplication, bias, out; then one rounding to out's dtype (nearest, ties to even; overflow gives Inf).
        K = 0 gives bias (or 0), plus out if accumulating. A NaN in row i of a or row j of b makes out[i, j] NaN; Inf (E5M2)
        behaves as in IEEE 754, so Inf * 0 is NaN.
        Deterministic: the same bytes from run to run, and on the CPU with any number of threads.
        Precision family: reduction(K), on GPUs with what their tensor cores cut; derived in docs/numerics.md.

    Raises:
        TypeError: a dtype that is not listed above, or a scale that is not a float32 tensor of shape ().
        ValueError: shapes that do not fit, another device, a or b transposed or otherwise not adjacent along K, an `out` that is
            not row-major or overlaps an input, accumulate without out.
        BackendUnavailable: the named backend cannot run these arguments (the message says why).

    Memory, launches:
        Reads (M + N) K bytes, writes M N elements once (and reads them to accumulate); one kernel; no device synchronisation.
        An operand that a GPU backend has to copy costs 2 bytes an element and a launch more.
        On the CPU up to 2.7 MiB of scratch a thread is kept for the next call.

    Source: the contract is that of torch._scaled_mm with scalar scales and of cuBLASLt's FP8 matmul, NT layout.

    Example:
        >>> import torch, mpkernels as mp
        >>> a = torch.tensor([[1.0, 2.0]]).to(torch.float8_e4m3fn)
        >>> b = torch.tensor([[3.0, 4.0], [5.0, 6.0]]).to(torch.float8_e4m3fn)
        >>> mp.scaled_mm(a, b, torch.tensor(0.5), torch.tensor(2.0), bias=torch.tensor([100.0, 0.0]))
        tensor([[111.,  17.]], dtype=torch.bfloat16)
    """
    if out is None:
        if accumulate:
            raise ValueError("accumulate=True needs out, the tensor to add to")
        result: Tensor = op.torch_op(a, b, dequant_scale_a, dequant_scale_b, out_dtype, bias, use_fast_accum, backend=backend)
        return result
    if out_dtype is not out.dtype and out_dtype is not torch.bfloat16:
        raise TypeError(f"out_dtype must be out's dtype, {out.dtype}, got {out_dtype}")
    op_out.torch_op(a, b, dequant_scale_a, dequant_scale_b, bias, out, accumulate, use_fast_accum, backend=backend)
    return out
