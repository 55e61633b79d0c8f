"""amax against torch's abs().amax(), which writes and reads the magnitudes once more."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup, short
from ..peers import BARE, bare_custom_op, compiled
from ..shapes import Shape


def case(setup: Setup, shape: Shape, dtype: torch.dtype) -> Case:
    x = setup.random(*shape.size, dtype=dtype)

    def chain() -> object:
        return x.abs().amax()

    peers = {"torch abs().amax()": chain}
    return Case(
        name=f"{short(dtype)} {shape}",
        shape=shape,
        ours=lambda backend: mp.amax(x, backend=backend),
        peers=peers | {BARE: bare_custom_op(x)} if shape.family == "tiny" else peers,
        more_peers={"torch.compile of abs().amax()": compiled(chain)} if shape.size == (4096, 4096) else {},
        bytes_moved=x.nbytes,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in (*setup.tiny(16, 256), *setup.matrices()):
        yield case(setup, shape, torch.bfloat16)
        if shape.size == (4096, 4096):
            yield case(setup, shape, torch.float32)
