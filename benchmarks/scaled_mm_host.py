"""What a call of scaled_mm costs on the host with the CUDA backend: python -m benchmarks.scaled_mm_host.

Everything up to the runtime's launch is real, on CPU tensors and a recording instead of a GPU (csrc/host/launch.h): checks,
torch's dispatcher, the choice of a backend, the plan. The recording writes parameters as text, which a launch does not; what a
launch has instead is the runtime's own work, and looking up tensor maps. CPU time, so that other work on the machine counts
little; the least of several rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

import mpkernels as mp
from mpkernels import native

ROUNDS, CALLS = 300, 50
E4M3 = torch.float8_e4m3fn
GPUS = {"H100": (90, 132, 50 << 20, 227 << 10, 32764), "RTX 4090": (89, 128, 72 << 20, 99 << 10, 32764)}
ops = torch.ops.mpkernels_cuda


def microseconds(facts: tuple[int, ...], call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        ops.start_recording(*facts)
        call()
        start = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - start)
        ops.stop_recording()
    return 1e6 * best / CALLS


def calls(M: int, N: int, K: int) -> dict[str, Callable[[], object]]:
    a, b = torch.zeros(M, K, dtype=torch.uint8).view(E4M3), torch.zeros(N, K, dtype=torch.uint8).view(E4M3)
    one, out, bias = torch.ones(()), torch.zeros(M, N, dtype=torch.bfloat16), torch.zeros(N)
    return {
        "mp.scaled_mm, out given": lambda: mp.scaled_mm(a, b, one, one, out=out, backend="cuda"),
        "with a bias": lambda: mp.scaled_mm(a, b, one, one, bias=bias, out=out, backend="cuda"),
        "allocating": lambda: mp.scaled_mm(a, b, one, one, backend="cuda"),
        "the binding alone": lambda: ops.scaled_mm(a, b, one, one, None, out, False, False, None),
    }


def main() -> None:
    torch.set_num_threads(1)
    gc.disable()  # as timeit does
    for name, facts in GPUS.items():
        native.cuda_why_not = lambda name, tensor: None
        native.cuda_architecture = lambda tensor, architecture=facts[0]: architecture
        with torch.no_grad():
            for what, call in calls(256, 512, 512).items():
                print(f"{name:10} {what:28} {microseconds(facts, call):6.1f} us", flush=True)


if __name__ == "__main__":
    main()
