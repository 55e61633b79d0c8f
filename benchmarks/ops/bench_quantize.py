"""quantize against the chain of torch ops that gives the same codes, transpose and amax.

glibc's malloc returns a freed block of 16 MB to the system, and the next one costs a page fault for every 4 KB, until the
process has freed a somewhat larger block; from then on it keeps them (mallopt(3), M_MMAP_THRESHOLD). A training process is
past that after its first step, so `cases` frees such a block first. Both sides gain: ours allocates 2 x 16 MB, torch's chain
2 x 16 MB and 3 x 32 MB, which are above glibc's largest threshold and fault each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import mpkernels as mp
from mpkernels.formats import FP8_DTYPES, format_of

from ..cases import Case


def torch_chain(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> Callable[[], object]:
    """The product stays in x's dtype: for bf16 that rounds twice, but it is what people write, and the fastest chain."""
    largest = format_of(dtype).max

    def call() -> object:
        q = (x * quant_scale).clamp(-largest, largest).to(dtype)
        return q, q.t().contiguous() if transpose else None, x.abs().amax()

    return call


def case(shape: tuple[int, int], dtype: torch.dtype, fp8: torch.dtype, transpose: bool, bar: float | None = None) -> Case:
    x, quant_scale = torch.randn(shape).to(dtype), torch.tensor(100.0)
    return Case(
        name=f"quantize {dtype} -> {fp8}{' + transpose' * transpose} {shape[0]} x {shape[1]}".replace("torch.", ""),
        ours=lambda: mp.quantize(x, quant_scale, fp8, transpose=transpose),
        peer=torch_chain(x, quant_scale, fp8, transpose),
        peer_name=f"torch mul + clamp + cast{' + t().contiguous()' * transpose} + abs().amax()",
        bar=bar,
        bytes_moved=x.nbytes + x.numel() * (1 + transpose),
    )


def cases() -> Iterator[Case]:
    torch.empty(30 << 20, dtype=torch.uint8).fill_(0)
    for fp8 in FP8_DTYPES:
        yield case((4096, 4096), torch.bfloat16, fp8, True, bar=8)
        yield case((4096, 4096), torch.bfloat16, fp8, False)
    for dtype in (torch.float32, torch.float16):
        yield case((4096, 4096), dtype, torch.float8_e4m3fn, True)
    yield case((4000, 1000), torch.bfloat16, torch.float8_e4m3fn, True)
    yield case((16, 256), torch.bfloat16, torch.float8_e4m3fn, True)
