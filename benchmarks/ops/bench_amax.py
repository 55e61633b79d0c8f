"""amax against torch's abs().amax(), which writes and reads the magnitudes once more."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(4096, 4096).to(dtype)
        yield Case(
            name=f"amax {dtype} 4096 x 4096",
            ours=lambda x=x: mp.amax(x),
            peer=lambda x=x: x.abs().amax(),
            peer_name="torch abs().amax()",
            bytes_moved=x.nbytes,
        )
