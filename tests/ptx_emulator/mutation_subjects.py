"""The kernels that mutation.py breaks: nvcc's and Triton's, right on hardware or by the tests beside this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .api import Buffer, Module, Policy, Result, launch
from .compile import cuda_ptx, nvcc
from .mutation import Subject
from .tensor_map import TensorMap

KERNELS = Path(__file__).parent / "kernels"
E4M3, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
SAMPLE = 4  # of each mutator, where the whole would take minutes


def cuda(name: str, target: str, *flags: str) -> str:
    return cuda_ptx(KERNELS / f"{name}.cu", target, flags)


def subject(
    name: str, ptx: str, entry: str, arguments: Callable[[], tuple[Sequence[Any], Callable[[], bool]]], *where: Any, **how: Any
) -> Subject:
    """`arguments` makes fresh ones, and the function that says whether what they hold after the launch is right."""
    per_mutator = how.pop("per_mutator", None)

    def run(module: Module, policy: Policy, largest_steps: int) -> tuple[bool, Result]:
        given, is_right = arguments()
        result = launch(module[entry], *where, given, policy=policy, largest_steps=largest_steps, **how)
        return is_right(), result

    return Subject(name, ptx, entry, run, per_mutator)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(E4M3)


def product(M: int, N: int, K: int, maps: Callable[..., Sequence[Any]] = lambda a, b: (a, b)) -> Callable[[], Any]:
    """Arguments of out (M, N) = a . b^T in E4M3."""
    a, b = codes(M, K), codes(N, K)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    bound = K // 32 * 2.0**-24 * np.abs(exact).max() * 4

    def make() -> Any:
        out = np.full((M, N), np.nan, np.float32)
        operands = maps(a.view(np.uint8).copy(), b.view(np.uint8).copy())
        return [*operands, Buffer(out, "out", False), N, K], lambda: bool((np.abs(out - exact) <= bound).all())

    return make


def amax() -> Any:
    x, out = np.random.default_rng(0).standard_normal(500).astype(BF16), np.zeros(1, np.uint32)
    return [x.view(np.uint16), len(x), out], lambda: bool(out.view(np.float32)[0] == np.abs(x.astype(np.float32)).max())


def quantize_transpose() -> Any:
    rows, columns = 60, 52  # every bound is met by some thread
    x = (np.random.default_rng(0).standard_normal((rows, columns)) * 100).astype(BF16)
    q, q_t = np.zeros((rows, columns), np.uint8), np.zeros((columns, rows), np.uint8)
    want = np.clip(x.astype(np.float32), -448, 448).astype(E4M3).view(np.uint8)
    arguments = [x.view(np.uint16), np.ones(1, np.float32), Buffer(q, "q", False), Buffer(q_t, "q_t", False), rows, columns]
    return arguments, lambda: bool((q == want).all() and (q_t == want.T).all())


def tile_transpose() -> Any:
    x, y = np.random.default_rng(0).integers(0, 2**16, (64, 128), dtype=np.uint16), np.zeros((128, 64), np.uint16)
    return [TensorMap(a, (64, 64), swizzle="128B") for a in (x, y)], lambda: bool((y == x.T).all())


def cluster_sum() -> Any:
    x, out = np.random.default_rng(0).integers(0, 100, (2, 300)).astype(np.float32), np.zeros(2, np.float32)
    return [x, out, 300], lambda: bool((out == x.sum(axis=1)).all())


def multicast() -> Any:
    x, out = np.random.default_rng(0).integers(0, 2**16, (64, 64), dtype=np.uint16), np.zeros((2, 64, 64), np.uint16)
    return [TensorMap(x, (32, 64)), out], lambda: bool((out == x).all())


def hopper_maps(rows_b: int) -> Callable[..., Sequence[Any]]:
    return lambda a, b: [TensorMap(x, (rows, 128), swizzle="128B") for x, rows in ((a, 128), (b, rows_b))]


def cuda_subjects(thorough: bool) -> Iterator[Subject]:
    few = None if thorough else SAMPLE
    yield subject("amax sm_90a", cuda("elementwise", "sm_90a"), "amax", amax, 2, 256)
    yield subject("transpose sm_90a", cuda("elementwise", "sm_90a"), "quantize_transpose", quantize_transpose, 1, (32, 8))
    yield subject("gemm sm_89", cuda("gemm_sm89", "sm_89"), "gemm", product(64, 64, 256), 1, 128, per_mutator=few)
    tma = cuda("tma_sm90", "sm_90a")
    yield subject("tma transpose sm_90a", tma, "transpose", tile_transpose, (2, 1), 256)
    yield subject("cluster sum sm_90a", tma, "cluster_sum", cluster_sum, 8, 64)
    yield subject("multicast sm_90a", tma, "multicast", multicast, 2, 128)
    shared = {"shared_bytes": 4 * 2 * 16384, "per_mutator": few}
    gemm = cuda("gemm_sm90a", "sm_90a")
    yield subject("gemm sm_90a", gemm, "gemm", product(128, 128, 768, hopper_maps(128)), (1, 1), 384, **shared)
    pairs = cuda("gemm_sm90a", "sm_90a", "-DCLUSTER=2")
    yield subject("gemm pairs sm_90a", pairs, "gemm", product(256, 128, 768, hopper_maps(64)), (1, 2), 384, **shared)


def subjects(thorough: bool) -> Iterator[Subject]:
    """`thorough`: all mutants of all; otherwise a sample of those that take long."""
    if nvcc() is not None:
        yield from cuda_subjects(thorough)
