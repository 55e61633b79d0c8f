"""quantize against the chain of torch ops that gives the same codes, transpose and amax.

glibc's malloc returns a freed block of 16 MB to the system, and the next one costs a page fault for every 4 KB, until the
process has freed a somewhat larger block; from then on it keeps them (mallopt(3), M_MMAP_THRESHOLD). A training process is
past that after its first step, so `cases` frees such a block first. Both sides gain: ours allocates 2 x 16 MB, torch's chain
2 x 16 MB and 3 x 32 MB, which are above glibc's largest threshold and fault each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import mpkernels as mp
from mpkernels.formats import format_of

from ..cases import COPY, Case, Setup, short
from ..peers import BARE, bare_custom_op, compiled
from ..shapes import Shape
from ..timing import Call

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGE = (4096, 4096)
VARIANTS = (  # of the large square; x's dtype, FP8 dtype, transpose
    (torch.bfloat16, E4M3, False),
    (torch.bfloat16, E5M2, True),
    (torch.bfloat16, E5M2, False),
    (torch.float32, E4M3, True),
    (torch.float16, E4M3, True),
)


def torch_chain(x: Tensor, quant_scale: Tensor, dtype: torch.dtype, transpose: bool) -> Call:
    """The product stays in x's dtype: for bf16 that rounds twice, but it is what people write, and the fastest chain."""
    largest = format_of(dtype).max

    def call() -> object:
        q = (x * quant_scale).clamp(-largest, largest).to(dtype)
        return q, q.t().contiguous() if transpose else None, x.abs().amax()

    return call


def case(setup: Setup, shape: Shape, dtype: torch.dtype, fp8: torch.dtype, transpose: bool) -> Case:
    x, quant_scale = setup.random(*shape.size, dtype=dtype), setup.scalar(100.0)
    chain = torch_chain(x, quant_scale, fp8, transpose)
    name = f"torch mul + clamp + cast{' + t().contiguous()' * transpose} + abs().amax()"
    peers = {name: chain}
    large, main = shape.size == LARGE and shape.family == "square", dtype == torch.bfloat16 and transpose
    bytes_moved = x.nbytes + x.numel() * (1 + transpose)
    if shape.family == "tiny":
        peers[BARE] = bare_custom_op(x)
    elif large and main:
        peers[COPY] = setup.copy(bytes_moved)
    return Case(
        name=f"{short(dtype)} -> {short(fp8)}{' + transpose' * transpose} {shape}",
        shape=shape,
        ours=lambda backend: mp.quantize(x, quant_scale, fp8, transpose=transpose, backend=backend),
        peers=peers,
        more_peers={f"torch.compile of {name[6:]}": compiled(chain)} if large and main and fp8 == E4M3 else {},
        bars={name: 8.0, COPY: 0.8} if large and main else {},
        bytes_moved=bytes_moved,
    )


def cases(setup: Setup) -> Iterator[Case]:
    setup.random(30 << 18).fill_(0)
    for shape in (*setup.tiny(16, 256), *setup.matrices()):
        yield case(setup, shape, torch.bfloat16, E4M3, True)
        if shape.size == LARGE and shape.family == "square":
            for variant in VARIANTS:
                yield case(setup, shape, *variant)
