"""How CPU times are taken: variants interleaved round by round, so that all see the same state of a shared machine.

One round calls each variant once (or as many times as make 2 ms) in turn; the figure is the median over the rounds, given
with the 20th and 80th percentile. Ratios between variants of one run mean something; microseconds of different runs do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

SHORTEST_SAMPLE_S = 2e-3  # far above the clock's resolution and the cost of a Python call


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds."""

    median: float
    p20: float
    p80: float


def _sample(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def interleaved(variants: dict[str, Callable[[], object]], *, rounds: int = 41, seconds: float = 10.0) -> dict[str, Timing]:
    """Time the variants in turn for `rounds` rounds, or fewer (at least 3) once `seconds` have passed."""
    times = {}
    for name, call in variants.items():
        call()  # allocations, lazy imports, page faults
        times[name] = max(1, int(SHORTEST_SAMPLE_S / max(_sample(call, 1), 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        for name, call in variants.items():
            samples[name].append(_sample(call, times[name]))
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values: list[float]) -> Timing:
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timing(statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)])
