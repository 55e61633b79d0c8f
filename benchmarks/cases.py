"""One thing to measure: ours against a peer that does the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A benchmark case. A bench file yields them one at a time, so that only one case's data is alive.

    `bar` is the least ratio peer time / ours that the project promises (None: reported only). `bytes_moved` and `flops` are
    what the work must move and compute at least, for GB/s and GFLOP/s of ours.
    """

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    peer_name: str
    bar: float | None = None
    bytes_moved: int = 0
    flops: int = 0
