"""How times are taken: variants interleaved round by round, so that all see the same state of the machine.

A round takes one sample of each variant in turn. The figure is the median over the rounds, given with the 20th and 80th
percentile; a ratio has its own percentiles, of the ratios within each round. Ratios between variants of one run mean
something; microseconds of different runs do not: clocks, neighbours and the placement of memory differ.

On a CPU a sample is one call, or as many as make 2 ms. On a GPU it is one replay of a CUDA graph of the call ("graph"), so that
the host's overhead is not in it, or one call where the call cannot be captured ("eager"), between two events on the stream.
Before each the L2 cache is emptied by reading four times its size; writing would leave dirty lines, whose way back to memory
would be measured. While that runs, the host has time to queue what follows. Below some 5 us a GPU's figure is the launch's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

SHORTEST_SAMPLE_S = 2e-3  # far above the clock's resolution and the cost of a Python call
WARM_UP_S = 0.05  # of each GPU variant: longer than clocks take to settle after a pause
FEWEST_ROUNDS = 5
Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds per call, or their ratios: one sample a round."""

    samples: tuple[float, ...]
    method: str = "calls"

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p20(self) -> float:
        return quantile(self.samples, 0.2)

    @property
    def p80(self) -> float:
        return quantile(self.samples, 0.8)


def quantile(samples: tuple[float, ...], fraction: float) -> float:
    ordered = sorted(samples)
    return ordered[round(fraction * (len(ordered) - 1))]


def ratios(peer: tuple[float, ...], ours: tuple[float, ...]) -> Timing:
    """Round by round."""
    return Timing(tuple(p / o for p, o in zip(peer, ours, strict=True)))


class OnCpu:
    """Takes samples by the wall clock."""

    def sampler(self, call: Call) -> tuple[Callable[[], float], str]:
        call()  # allocations, lazy imports, page faults
        times = max(1, int(SHORTEST_SAMPLE_S / max(self._sample(call, 1), 1e-9)))
        return lambda: self._sample(call, times), "calls"

    @staticmethod
    def _sample(call: Call, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times


class OnCuda:
    """Takes samples by events, with a cold L2 cache."""

    def __init__(self, device: torch.device) -> None:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.larger_than_l2 = torch.zeros(max(4 * l2_bytes, 64 << 20) // 4, device=device)
        self.sum = torch.zeros((), device=device)

    def sampler(self, call: Call) -> tuple[Callable[[], float], str]:
        captured = self._capture(call)
        replay = call if captured is None else captured.replay
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def take() -> float:
            torch.sum(self.larger_than_l2, 0, out=self.sum)
            before.record()
            replay()
            after.record()
            after.synchronize()
            return float(before.elapsed_time(after)) / 1e3

        end = time.perf_counter() + WARM_UP_S
        take()
        while time.perf_counter() < end:
            take()
        return take, "eager" if captured is None else "graph"

    @staticmethod
    def _capture(call: Call) -> torch.cuda.CUDAGraph | None:
        """None where the call waits for the device or allocates what a graph cannot hold."""
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        stream.wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            torch.cuda.set_stream(stream)  # a failed capture leaves its own as the current one
            torch.cuda.synchronize()
            return None
        return graph


Sampling = OnCpu | OnCuda


def on(device: torch.device) -> Sampling:
    return OnCuda(device) if device.type == "cuda" else OnCpu()


def interleaved(variants: Mapping[str, Call], sampling: Sampling, *, rounds: int = 41, seconds: float = 3.0) -> dict[str, Timing]:
    """Time the variants in turn for `rounds` rounds, or fewer (at least 5) once `seconds` have passed."""
    samplers = {name: sampling.sampler(call) for name, call in variants.items()}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name, (take, _) in samplers.items():
            samples[name].append(take())
    return {name: Timing(tuple(taken), samplers[name][1]) for name, taken in samples.items()}
