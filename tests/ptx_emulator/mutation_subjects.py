"""The kernels that mutation.py breaks: nvcc's and Triton's, right on hardware or by the tests beside this file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
SAMPLE = 2  # of each mutator, where the whole would take minutes


def cuda(name: str, target: str, *flags: str) -> str:
    return cuda_ptx(KERNELS / f"{name}.cu", target, flags)


Arguments = tuple[Sequence[Any], Callable[[], bool]]


def subject(name: str, ptx: str, entry: str, cases: Callable[[], Iterator[Arguments]], *where: Any, **how: Any) -> Subject:
    """`cases` makes the arguments of a launch or more, each with a function that says whether the results are right."""
    per_mutator = how.pop("per_mutator", None)

    def run(module: Module, policy: Policy, largest_steps: int) -> tuple[bool, Result]:
        right = True
        for given, is_right in cases():
            result = launch(module[entry], *where, given, policy=policy, largest_steps=largest_steps, **how)
            right &= is_right()
        return right, result

    return Subject(name, ptx, entry, run, per_mutator)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(E4M3)


def product(
    M: int, N: int, K: int, maps: Callable[..., Sequence[Any]] = lambda a, b: (a, b)
) -> Callable[[], Iterator[Arguments]]:
    """Arguments of out (M, N) = a . b^T in E4M3."""
    a, b = codes(M, K), codes(N, K)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    bound = K // 32 * 2.0**-24 * np.abs(exact).max() * 4

    def make() -> Iterator[Arguments]:
        out = np.full((M, N), np.nan, np.float32)
        operands = maps(a.view(np.uint8).copy(), b.view(np.uint8).copy())
        yield [*operands, Buffer(out, "out", False), N, K], lambda: bool((np.abs(out - exact) <= bound).all())

    return make


def amax() -> Iterator[Arguments]:
    x, out = np.random.default_rng(0).standard_normal(500).astype(BF16), np.zeros(1, np.uint32)
    yield [x.view(np.uint16), len(x), out], lambda: bool(out.view(np.float32)[0] == np.abs(x.astype(np.float32)).max())


def quantize_transpose() -> Iterator[Arguments]:
    """Sizes at which every bound is met by some thread: nvcc makes four comparisons of the loop's one."""
    for rows, columns in ((60, 36), (52, 44), (44, 52), (36, 60)):
        x = (np.random.default_rng(0).standard_normal((rows, columns)) * 100).astype(BF16)
        q, q_t = np.zeros((rows, columns), np.uint8), np.zeros((columns, rows), np.uint8)
        want = np.clip(x.astype(np.float32), -448, 448).astype(E4M3).view(np.uint8)
        given = [x.view(np.uint16), np.ones(1, np.float32), Buffer(q, "q", False), Buffer(q_t, "q_t", False), rows, columns]
        yield given, partial(lambda q, q_t, want: bool((q == want).all() and (q_t == want.T).all()), q, q_t, want)


def tile_transpose() -> Iterator[Arguments]:
    x, y = np.random.default_rng(0).integers(0, 2**16, (64, 128), dtype=np.uint16), np.zeros((128, 64), np.uint16)
    yield [TensorMap(a, (64, 64), swizzle="128B") for a in (x, y)], lambda: bool((y == x.T).all())


def cluster_sum() -> Iterator[Arguments]:
    x, out = np.random.default_rng(0).integers(0, 100, (2, 300)).astype(np.float32), np.zeros(2, np.float32)
    yield [x, out, 300], lambda: bool((out == x.sum(axis=1)).all())


def multicast() -> Iterator[Arguments]:
    x, out = np.random.default_rng(0).integers(0, 2**16, (64, 64), dtype=np.uint16), np.zeros((2, 64, 64), np.uint16)
    yield [TensorMap(x, (32, 64)), out], lambda: bool((out == x).all())


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
    yield subject("gemm sm_90a", gemm, "gemm", product(128, 128, 1152, hopper_maps(128)), (1, 1), 384, **shared)
    pairs = cuda("gemm_sm90a", "sm_90a", "-DCLUSTER=2")
    yield subject("gemm pairs sm_90a", pairs, "gemm", product(256, 128, 1152, hopper_maps(64)), (1, 2), 384, **shared)


def triton_subject(
    name: str, function: Any, target: int, cases: Callable[[], Iterator[Arguments]], grid: int, **options: Any
) -> Subject:
    """`cases` makes the arguments of a Triton launch."""
    from .triton_launch import bind_triton

    per_mutator = options.pop("per_mutator", None)
    given, _ = next(cases())
    kernel = bind_triton(function, given, options, target=target).kernel

    def run(module: Module, policy: Policy, largest_steps: int) -> tuple[bool, Result]:
        right = True
        for given, is_right in cases():
            bound = bind_triton(function, given, options, target=target)
            bound.kernel.kernel = module[kernel.kernel.name]
            result = bound.launch(grid, policy=policy, largest_steps=largest_steps)
            right &= is_right()
        return right, result

    return Subject(name, kernel.ptx, kernel.kernel.name, run, per_mutator)


def triton_product(
    shapes: Sequence[tuple[int, int]], K: int, dtype: Any, block: tuple[int, int, int], described: bool = False
) -> Callable[[], Iterator[Arguments]]:
    """Arguments of the matmuls in kernels/triton_kernels.py, out (M, N) in bf16 for each of the shapes."""
    import torch
    from triton.tools.tensor_descriptor import TensorDescriptor

    sizes = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), block, strict=True))

    def make() -> Iterator[Arguments]:
        rng = np.random.default_rng(0)
        for M, N in shapes:
            a, b = (torch.from_numpy(rng.standard_normal((n, K)).astype(np.float32)).to(dtype) for n in (M, N))
            exact = a.double() @ b.double().t()
            out = torch.full((M, N), float("nan"), dtype=torch.bfloat16)
            operands: list[Any] = [a, b]
            if described:
                rows = (block[0], block[1])
                operands = [TensorDescriptor(x, list(x.shape), [K, 1], [n, block[2]]) for x, n in zip((a, b), rows, strict=True)]
            given = [*operands, Buffer(out, "out", False), M, N, K, *sizes.values()]
            yield (
                given,
                partial(lambda out, exact: bool(((out.double() - exact).abs() <= exact.abs() / 256 + 1e-4).all()), out, exact),
            )

    return make


def triton_subjects(thorough: bool) -> Iterator[Subject]:
    import torch

    from .kernels import triton_kernels as kernels

    few = None if thorough else SAMPLE
    e4m3, fp16 = torch.float8_e4m3fn, torch.float16
    pointers = partial(triton_subject, function=kernels.matmul, grid=1, num_warps=4, num_stages=3, per_mutator=few)
    yield pointers("triton gemm sm_80", target=80, cases=triton_product([(5, 5)], 208, fp16, (64, 64, 32)))
    yield pointers("triton gemm sm_89", target=89, cases=triton_product([(5, 5)], 464, e4m3, (64, 64, 64)))
    yield pointers("triton gemm sm_90", target=90, cases=triton_product([(5, 8), (64, 64)], 256, fp16, (64, 64, 32)))
    described = partial(
        triton_subject, function=kernels.matmul_by_descriptors, grid=1, num_warps=4, num_stages=3, per_mutator=few
    )
    tiles = triton_product([(70, 5)], 640, e4m3, (64, 64, 128), described=True)
    yield described("triton tma gemm sm_90", target=90, cases=tiles)
    yield described("triton tma gemm sm_100", target=100, cases=tiles)


def why_no_cuda() -> str | None:
    return None if nvcc() is not None else "nvcc is not on the path"


def why_no_triton() -> str | None:
    return None if importlib.util.find_spec("triton") is not None else "needs triton"


def subjects(thorough: bool) -> Iterator[Subject]:
    """`thorough`: all mutants of all; otherwise a sample of those that take long. Without a compiler its subjects are missing."""
    if why_no_cuda() is None:
        yield from cuda_subjects(thorough)
    if why_no_triton() is None:
        yield from triton_subjects(thorough)
