"""What a call of an op costs in Python with the Triton backend: python -m benchmarks.triton_launch.

Everything up to the driver's launch is real, on a driver that does nothing (tests/stub_driver.py). CPU time, so that other work
on the machine counts little; the least of several rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import stub_driver

import mpkernels as mp

ROUNDS, CALLS = 7, 300
E4M3 = torch.float8_e4m3fn


def microseconds(call: Callable[[], object]) -> float:
    call()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - start)
        stub_driver.noted.clear()
    return 1e6 * best / CALLS


def calls() -> dict[str, Callable[[], object]]:
    x, one, found = torch.zeros(256, 512, dtype=torch.bfloat16), torch.ones(()), torch.zeros(())
    codes = torch.zeros(256, 512, dtype=torch.uint8).view(E4M3)

    def lists(n: int, kinds: int) -> list[list[torch.Tensor]]:
        return [[torch.zeros(64) for _ in range(n)] for _ in range(kinds)]

    made: dict[str, Callable[[], object]] = {
        "amax": lambda: mp.amax(x, backend="triton"),
        "quantize with a transpose": lambda: mp.quantize(x, one, E4M3, transpose=True, backend="triton"),
        "quantize_current with a transpose": lambda: mp.quantize_current(x, E4M3, transpose=True, backend="triton"),
        "scaled_mm": lambda: mp.scaled_mm(codes, codes, one, one, backend="triton"),
    }
    for n in (10, 300):
        grads, (masters, first, second, low) = lists(n, 1)[0], lists(n, 4)
        steps = [torch.zeros(()) for _ in range(n)]
        made[f"unscale_and_check_ of {n} tensors"] = lambda g=grads: mp.unscale_and_check_(g, one, found, backend="triton")
        made[f"adamw_update_ of {n} tensors"] = lambda a=(masters, first, second, steps, [], low): mp.adamw_update_(
            *a, lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, backend="triton"
        )
    return made


def main() -> None:
    stub_driver.install(90)
    with torch.no_grad():
        for name, call in calls().items():
            print(f"{name:40} {microseconds(call):8.1f} us", flush=True)


if __name__ == "__main__":
    main()
