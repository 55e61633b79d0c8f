"""CUDA backends without a GPU: what a binding would have launched, run in the emulator.

The CUDA library records launches instead of making them (csrc/host/launch.h), so an op's own binding, plan and kernels are
used. Here each recorded kernel is compiled to PTX for a target and run on the tensors of the call. The `backend` fixture
(conftest.py) puts an `EmulatedDevice` where cuda.py files find their operators.
"""

from __future__ import annotations

import bisect
import ctypes
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from ptx_emulator import EVERY_POLICY, Buffer, Module, Policy, Result, launch, load
from ptx_emulator.arguments import reach
from ptx_emulator.compile import cuda_ptx, nvcc
from ptx_emulator.tensor_map import BYTES as TENSOR_MAP_BYTES
from ptx_emulator.tensor_map import SWIZZLES, TYPES, Fields
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mpkernels import native

ROOT = Path(__file__).parents[1]
# Warps that run at random cost 16 us an instruction each; in step, all blocks together hardly more than one.
MOST_BLOCKS_AT_RANDOM = 2
IN_STEP = tuple(policy for policy in EVERY_POLICY if policy.schedule == "lockstep")
# What setup.py passes for .cu files beside -O3 and -std (tests/test_build.py compares).
FLAGS = ("-DUSE_CUDA",)


@dataclass(frozen=True)
class Facts:
    """What plans depend on: DeviceFacts of csrc/host/launch.h."""

    architecture: int
    sm_count: int
    l2_bytes: int
    shared_bytes: int
    parameter_bytes: int


# L2 and shared memory are those of A100, RTX 4090, H100, B200 and RTX 5090. The first and fourth have as few SMs as a slice of a
# GPU, so that small tensors make persistent blocks take several turns; the first has the parameter space of an older driver.
TARGETS = {
    "sm_80": Facts(80, 3, 40 << 20, 163 << 10, 4096),
    "sm_89": Facts(89, 128, 72 << 20, 99 << 10, 32764),
    "sm_90a": Facts(90, 132, 50 << 20, 227 << 10, 32764),
    "sm_100a": Facts(100, 2, 126 << 20, 227 << 10, 32764),
    "sm_120a": Facts(120, 170, 96 << 20, 99 << 10, 32764),
}


def why_not() -> str | None:
    """Why nothing can be emulated here, or None."""
    return native.cuda_missing if nvcc() is not None else "nvcc is not on the path"


# From one entry function's directive to the brace that closes its body, which alone is at the start of a line and not of
# inline assembly.
ENTRY = re.compile(r"^(\.visible )?\.entry (?P<name>\w+)\(.*?^}$(?!\n\t// end inline asm)", re.MULTILINE | re.DOTALL)


def kernel_ptx(file: str, target: str, kernel: str) -> str:
    """The PTX of a .cu file of the package, compiled for a target, with one of its kernels: parsing dozens takes seconds."""
    ptx = cuda_ptx(ROOT / file, target, FLAGS, folders=[ROOT / "csrc"])
    return re.sub(ENTRY, lambda found: found[0] if found["name"] == kernel else "", ptx)


@cache
def module(file: str, target: str, kernel: str) -> Module:
    """`kernel_ptx`, loaded."""
    return load(kernel_ptx(file, target, kernel))


@dataclass(frozen=True)
class Launch:
    """A line of the recording. A memset has the file "memset" and address and size as its parameters."""

    file: str
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    cluster: tuple[int, ...]
    params: bytes

    @staticmethod
    def parse(line: str) -> Launch:
        file, *rest = line.split()
        if file == "memset":
            address, size = map(int, rest)
            return Launch(file, "", (), (), size, (), address.to_bytes(8, "little"))
        numbers = [int(n) for n in rest[1:11]]
        return Launch(
            file, rest[0], tuple(numbers[:3]), tuple(numbers[3:6]), numbers[6], tuple(numbers[7:10]), bytes.fromhex(rest[11])
        )


class Params:
    """The bytes of a kernel's parameters, in which 8-byte words that point into a tensor of the call are translated."""

    def __init__(self, content: bytes, buffers: Sequence[Buffer]) -> None:
        self.content, self.buffers = content, buffers

    def arrays(self) -> Iterator[Buffer]:
        return iter(self.buffers)

    def pack(self, address_of: Callable[[Any], int]) -> bytes:
        content = bytearray(self.content)
        extents = sorted((*extent(buffer.array), i) for i, buffer in enumerate(self.buffers))
        starts = [begin for begin, _, _ in extents]
        end = max((begin + size for begin, size, _ in extents), default=0)
        for at in range(0, len(content) - 7, 8):
            word = int.from_bytes(content[at : at + 8], "little")
            if not (starts and starts[0] <= word < end):
                continue
            for begin, size, i in reversed(extents[: bisect.bisect_right(starts, word)]):  # the first, unless tensors overlap
                if word < begin + size:
                    content[at : at + 8] = ((address_of(self.buffers[i]) + word - begin) % 2**64).to_bytes(8, "little")
                    break
        return encode_maps(bytes(content))


MAP_MARK = b"mpk tensor map"
MAP_LAYOUT = "<16xQQQQIII"  # MatrixMap of csrc/host/tensor_map.h
MAP_TYPES = ("u8", "f16", "bf16", "f32")


def encode_maps(content: bytes) -> bytes:
    """Descriptions of matrices, which the recording has in place of tensor maps, as the emulator's tensor maps."""
    at = content.find(MAP_MARK)
    if at < 0:
        return content
    address, rows, columns, pitch, box_rows, box_columns, element = struct.unpack_from(MAP_LAYOUT, content, at)
    fields = Fields(
        address,
        [pitch, 0, 0, 0],
        [columns, rows, 1, 1, 1],
        [box_columns, box_rows, 1, 1, 1],
        [1] * 5,
        TYPES.index(MAP_TYPES[element]),
        rank=2,
        swizzle=SWIZZLES.index("128B"),
    )
    assert not fields.problems(), f"the driver would refuse this tensor map: {'; '.join(fields.problems())}"
    return content[:at] + fields.pack() + encode_maps(content[at + TENSOR_MAP_BYTES :])


def extent(tensor: Tensor) -> tuple[int, int]:
    """(address, bytes that belong to it)."""
    return tensor.data_ptr(), reach(tensor)


@dataclass
class EmulatedDevice:
    """Stands where torch.ops.mpkernels_cuda stands: `device.quantize(...)` records the op's launches and runs them.

    Args:
        target: as nvcc spells it; a key of TARGETS.
        policy: of the emulator; None: the launches take turns through all of them.
        is_unwritten: tells of a tensor whether its bytes count as never written, so that a kernel may not read them.
        numerics: how the emulator's matrix instructions round.
        sm_count: instead of the target's.
        module: (file, target, kernel) -> the module with that kernel.

    After each call `launches` and `results` hold what it did, for tests that count.
    """

    target: str
    policy: Policy | None = None
    is_unwritten: Callable[[Tensor], bool] = lambda tensor: False
    turn: int = 0
    numerics: str = "exact"
    sm_count: int | None = None
    module: Callable[[str, str, str], Module] = module
    launches: list[Launch] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def facts(self) -> Facts:
        facts = TARGETS[self.target]
        return facts if self.sm_count is None else replace(facts, sm_count=self.sm_count)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: self.call(name, *args)

    def call(self, name: str, *args: Any) -> Any:
        ops = torch.ops.mpkernels_cuda
        ops.start_recording(*vars(self.facts).values())
        try:
            answer = getattr(ops, name)(*args)
        finally:
            recording = ops.stop_recording()
        self.launches = [Launch.parse(line) for line in recording.splitlines()]
        tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor) and t.numel()]
        unwritten = {t.data_ptr() for t in tensors if self.is_unwritten(t)}
        self.results = []
        for each in self.launches:
            if each.file == "memset":
                unwritten -= set_zero(each, tensors)
                continue
            self.results.append(self.run(each, tensors, unwritten))
            unwritten = set()  # the next launch may read what this one wrote
        return answer

    def run(self, each: Launch, tensors: Sequence[Tensor], unwritten: set[int] = frozenset()) -> Result:
        """One launch; tests may call it with changed parameters."""
        buffers = [
            Buffer(t, f"tensor {i} {tuple(t.shape)}", t.data_ptr() not in unwritten, t.data_ptr() % 256)
            for i, t in enumerate(tensors)
        ]
        self.turn += 1
        policies = EVERY_POLICY if prod(each.grid) <= MOST_BLOCKS_AT_RANDOM else IN_STEP
        return launch(
            self.module(each.file, self.target, each.kernel)[each.kernel],
            each.grid,
            each.block,
            [Params(each.params, buffers)],
            policy=self.policy or policies[self.turn % len(policies)],
            shared_bytes=each.shared_bytes,
            cluster=each.cluster,
            numerics=self.numerics,
        )


def set_zero(each: Launch, tensors: Sequence[Tensor]) -> set[int]:
    """Does a recorded memset, which must lie in one tensor; returns the tensor's address if it covers it."""
    address, size = int.from_bytes(each.params, "little"), each.shared_bytes
    (found,) = {(b, n) for b, n in map(extent, tensors) if b <= address and address + size <= b + n}
    ctypes.memset(address, 0, size)
    return {address} if found == (address, size) else set()
