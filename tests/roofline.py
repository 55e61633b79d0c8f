"""What scaled_mm's plans allow at best, from their tiles and the published numbers of three GPUs: a model, not a measurement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import emulated
import torch
from emulated import EmulatedDevice

DEPTH = 128  # a block of K, in every kernel
FP32_LANES = 128  # additions a cycle and SM; CUDA C++ Programming Guide, throughput of arithmetic instructions
BF16, FP32 = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Gpu:
    """multiply_adds: of FP8 with FP32 sums, a cycle and SM. gigabytes: a second, from memory."""

    name: str
    target: str
    gigahertz: float
    multiply_adds: int
    gigabytes: int
    source: str

    @property
    def sms(self) -> int:
        return emulated.TARGETS[self.target].sm_count

    @property
    def teraflops(self) -> float:
        return 2 * self.multiply_adds * self.sms * self.gigahertz / 1000


GPUS = (
    Gpu(
        "H100 SXM",
        "sm_90a",
        1.83,
        4096,
        3350,
        "NVIDIA's H100 architecture whitepaper and data sheet have 1979 TFLOP/s dense, 132 SMs, 3.35 TB/s",
    ),
    Gpu(
        "RTX 4090",
        "sm_89",
        2.52,
        512,
        1008,
        "NVIDIA's Ada architecture whitepaper has 128 SMs at 2.52 GHz, 1008 GB/s and 660 TFLOP/s, which GeForce cards reach with"
        " FP16 sums only: 391 and, with FP32 sums, 209 TFLOP/s measured on an RTX 4080"
        " (https://github.com/ReinForce-II/mmapeak/pull/5)",
    ),
    Gpu(
        "RTX 5090",
        "sm_120a",
        2.41,
        1024,
        1792,
        "NVIDIA's RTX Blackwell architecture whitepaper has 170 SMs at 2.41 GHz, 1792 GB/s and 838 TFLOP/s with FP16 sums, which"
        " the block-scaled instruction reaches with FP32 sums",
    ),
)


@dataclass(frozen=True)
class Product:
    what: str
    M: int
    N: int
    K: int
    into_fp32: bool = False  # added to, as a gradient of weights is
    fast: bool = False

    @property
    def bytes(self) -> int:
        """That must pass memory: operands once, out once, or twice where it is added to."""
        return (self.M + self.N) * self.K + self.M * self.N * (8 if self.into_fp32 else 2)


# Llama 3 8B (arXiv:2407.21783, table 3), a sequence of 8192 tokens: (features out, features in).
TOKENS = 8192
LAYERS = {"q, k, v": (6144, 4096), "attention out": (4096, 4096), "gate and up": (28672, 4096), "down": (4096, 14336)}


def products() -> Iterator[Product]:
    for name, (n_out, n_in) in LAYERS.items():
        yield Product(f"{name}, forward", TOKENS, n_out, n_in)
        yield Product(f"{name}, grad_x", TOKENS, n_in, n_out)
        yield Product(f"{name}, grad_w", n_out, n_in, TOKENS, into_fp32=True)
    for n in (4096, 8192):
        yield Product("square", n, n, n)
        yield Product("square, fast", n, n, n, fast=True)
    for tokens in (1, 16, 128):
        yield Product(f"down, {tokens} token" + "s" * (tokens > 1), tokens, 4096, 14336)
    yield Product("grad_w of a small layer", 768, 3072, 16384, into_fp32=True)
    for shape in ((4096, 7168, 16384), (4096, 2112, 7168)):
        yield Product("as published for DeepGEMM", *shape)


@dataclass(frozen=True)
class Plan:
    """tile: (M, N) or the other way round. incoming: bytes from L2 into an SM for a tile and block of K."""

    words: str
    tile: tuple[int, int]
    tiles: int
    splits: int
    incoming: float
    cycles: int  # by the plan's own model

    @staticmethod
    def parse(text: str) -> Plan:
        cycles = int(re.search(r"model: (\d+) cycles", text)[1])
        if found := re.match(r"((\d+)x(\d+)\w*), (\d+) x (\d+) in clusters of (\d), K in (\d+),", text):
            rows, columns, across, down, cluster, splits = map(int, found.groups()[1:])
            words = found[1] + f", clusters of {cluster}" * (cluster > 1) + f", K in {splits}" * (splits > 1)
            shared = (cluster - 1) * max(rows, columns) / 2
            tiles = across * down * cluster * splits
            return Plan(words, (rows, columns), tiles, splits, (rows + columns - shared) * DEPTH, cycles)
        found = re.search(r"tiles of (\d+) x (\d+) x 128,.* (\d+) x (\d+) tiles", text)
        rows, columns, across, down = map(int, found.groups())
        return Plan(f"{rows}x{columns}", (rows, columns), across * down, 1, (rows + columns) * DEPTH, cycles)


def plan_of(gpu: Gpu, p: Product) -> Plan:
    """The memory is not touched, so it costs nothing."""
    a, b = (torch.empty(rows, p.K, dtype=torch.float8_e4m3fn) for rows in (p.M, p.N))
    out, one = torch.empty(p.M, p.N, dtype=FP32 if p.into_fp32 else BF16), torch.ones(())
    return Plan.parse(str(EmulatedDevice(gpu.target).scaled_mm_plan(a, b, one, one, None, out, p.into_fp32, p.fast)))


@dataclass(frozen=True)
class Roofline:
    """Cycles of the busiest SM, and of memory: neither can be beaten by this plan."""

    gpu: Gpu
    product: Product
    plan: Plan

    @property
    def needed(self) -> float:
        """Of the tensor cores, were they all busy all the time."""
        p = self.product
        return p.M * p.N * p.K / self.gpu.multiply_adds / self.gpu.sms

    @property
    def multiply(self) -> float:
        """A tile and block of K."""
        return self.plan.tile[0] * self.plan.tile[1] * DEPTH / self.gpu.multiply_adds

    @property
    def promote(self) -> float:
        return 0.0 if self.product.fast else self.plan.tile[0] * self.plan.tile[1] / FP32_LANES

    @property
    def rounds(self) -> int:
        return -(-self.plan.tiles // self.gpu.sms)

    @property
    def compute(self) -> float:
        blocks = -(-self.product.K // DEPTH)
        return self.rounds * -(-blocks // self.plan.splits) * max(self.multiply, self.promote)

    @property
    def memory(self) -> float:
        return self.product.bytes / self.gpu.gigabytes * self.gpu.gigahertz

    @property
    def limit(self) -> str:
        if self.memory > self.compute:
            return "memory"
        return "promotion" if self.promote > self.multiply else "tensor cores"

    @property
    def share(self) -> float:
        """Of the peak, at most."""
        return self.needed / max(self.compute, self.memory)

    def cells(self) -> list[str]:
        p, cycles = self.product, max(self.compute, self.memory)
        found = [p.what, f"{p.M} x {p.N} x {p.K}", self.plan.words, str(self.plan.tiles), str(self.rounds)]
        found += [f"{self.multiply:.0f}, {self.promote:.0f}", f"{self.plan.incoming / self.multiply:.0f}", self.limit]
        found += [f"{cycles / self.gpu.gigahertz / 1000:.0f} us, {percent(self.share)}"]
        return found + [percent(self.needed / self.plan.cycles)] * (self.gpu.target == "sm_90a")


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def rooflines(gpu: Gpu) -> Iterator[Roofline]:
    return (Roofline(gpu, p, plan_of(gpu, p)) for p in products())


def section() -> list[str]:
    from gpu_evidence import table

    lines = [
        "### Rooflines of matrix products",
        "",
        "**A model, not a measurement**: the tiles of each plan and the published numbers of the GPU. Llama 3 8B's layers at",
        "8192 tokens; grad_w is added to an FP32 matrix.",
        "",
        "* *Rounds*: tiles one after the other on the busiest SM, which has its tensor cores busy for all of them.",
        "* *Products, promotion*: cycles of tensor cores, and of additions to FP32 sums beside them, for a tile and 128 of K.",
        "* *Bytes a cycle*: what must come from L2 into an SM for the tensor cores never to wait.",
        "* *At best*: by the slowest of tensor cores, promotion and memory (operands read once, results written once), and the",
        "  share of the GPU's peak. No plan with these tiles is faster.",
        "* *Plan's model*: the share that the plan's own cost function expects, which knows shared memory, L2, starts and",
        "  epilogues too (`csrc/ops/scaled_mm/sm90a_plan.cpp`).",
    ]
    for gpu in GPUS:
        head = ["product", "M x N x K", "plan", "tiles", "rounds", "products, promotion", "bytes a cycle", "limit", "at best"]
        head += ["plan's model"] * (gpu.target == "sm_90a")
        lines += [
            "",
            f"**{gpu.name}**, {gpu.teraflops:.0f} TFLOP/s. {gpu.source}.",
            "",
            *table(head, (r.cells() for r in rooflines(gpu))),
        ]
    return lines
