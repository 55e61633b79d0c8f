"""Load PTX, launch kernels, read what happened.

    module = load(Path("kernel.ptx").read_text())
    result = launch(module["scale"], grid=4, block=128, args=[x, y, 2.0, len(x)])
    result.counters["global_load_sectors"]

A launch that had findings raises KernelFault at its end (check=False returns them in `result.reports` instead).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import reports, semantics
from .arguments import Buffer, DeviceArrays, Struct, is_array, value_bytes
from .asynchrony import EVERY_POLICY, Policy
from .counters import Counters
from .machine import REGISTERS, Machine, Options, Shape
from .parse import parse
from .program import Program, build
from .reports import KernelFault, Report, Stop
from .spaces import ConstantSpace, GlobalSpace
from .syntax import ModuleText, PTXError, Variable

__all__ = [
    "EVERY_POLICY",
    "Buffer",
    "Kernel",
    "KernelFault",
    "Module",
    "PTXError",
    "Policy",
    "Result",
    "Struct",
    "launch",
    "load",
    "semantics",
]

RESIDENT_LANES = 16384  # lanes of one batch of CTAs: larger batches are faster until their registers leave the cache
RESIDENT_SHARED = 4 << 20
# Most dynamic + static shared memory a CTA may ask for; CUDA C++ Programming Guide, technical specifications.
SHARED_LIMIT = {
    80: 163 << 10,
    86: 99 << 10,
    87: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    103: 227 << 10,
    120: 99 << 10,
}
STATIC_LIMIT = 48 << 10
LARGEST_BLOCK = 1024


@dataclass
class Kernel:
    """An entry of a module."""

    module: Module
    program: Program

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def parameters(self) -> list[Variable]:
        return [variable for variable, _ in self.program.parameters]

    def __repr__(self) -> str:
        return f"<kernel {self.name}, {self.program.target}, {len(self.program.instructions)} instructions>"


class Module:
    """A PTX file. Its .global variables keep their values from launch to launch."""

    def __init__(self, text: ModuleText) -> None:
        self.text = text
        self.variables: list[tuple[Variable, np.ndarray]] = []
        constant, self.constant_offsets = b"", {}
        for variable in text.variables:
            size = variable.size or 0
            if variable.space == "global" and not variable.external:
                self.variables.append((variable, np.frombuffer(variable.data or bytes(size), np.uint8).copy()))
            elif variable.space == "const":
                constant = constant.ljust(-(-len(constant) // variable.align) * variable.align, b"\0")
                self.constant_offsets[variable.key] = len(constant)
                constant += (variable.data or b"").ljust(size, b"\0")
        self.constants = constant
        self.kernels = {f.name: Kernel(self, build(text, f.name)) for f in text.functions.values() if f.is_entry}

    def __getitem__(self, name: str) -> Kernel:
        if name not in self.kernels:
            raise KeyError(f"no kernel {name!r}; the module has {', '.join(self.kernels) or 'none'}")
        return self.kernels[name]

    def variable(self, name: str) -> np.ndarray:
        """The bytes of a .global variable."""
        return next(data for variable, data in self.variables if variable.name == name)

    def addresses(self, arrays: DeviceArrays | None) -> dict[str, int]:
        found = {key: 64 + offset for key, offset in self.constant_offsets.items()}
        if arrays is not None:
            found |= arrays.variable_addresses()
        else:
            found |= {variable.key: 0 for variable, _ in self.variables}
        return found


def load(ptx: str) -> Module:
    """Parse a PTX file and bind every kernel once, so that what is not understood is an error here."""
    module = Module(parse(ptx))
    for kernel in module.kernels.values():
        content = (ConstantSpace("parameter", bytes(kernel.program.parameter_bytes)), ConstantSpace("constant", module.constants))
        machine = Machine(
            kernel.program,
            (1, 1, 1),
            (128, 1, 1),
            (1, 1, 1),
            1,
            Options(),
            (GlobalSpace([]), *content),
            module.addresses(None),
            0,
        )
        machine.scheduler.bind()
        machine.dismantle()
    return module


@dataclass
class Result:
    """What a launch did. `steps`: instructions executed by some group of lanes. `machine`: see `keep` of launch."""

    reports: list[Report]
    counters: Counters
    printed: list[str]
    steps: int
    cluster: Shape
    machine: Machine | None

    def __str__(self) -> str:
        lines = [str(r) for r in self.reports] or ["no findings"]
        lines += [f"{name:32} {n}" for name, n in self.counters.totals.items()]
        return "\n".join([*lines, f"{'warp_instructions':32} {self.counters.warp_instructions}"])


def shape(value: int | Sequence[int]) -> Shape:
    sizes = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"grid, block and cluster need one to three positive sizes, got {value}")
    return (*sizes, 1, 1)[:3]  # type: ignore[return-value]


def launch(
    kernel: Kernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    *,
    arch: int | None = None,
    policy: Policy | None = None,
    shared_bytes: int = 0,
    cluster: int | Sequence[int] | None = None,
    resident: int | None = None,
    ctas: Sequence[int] | None = None,
    numerics: str = "exact",
    registers: int | None = None,
    largest_cluster: int = 8,
    races: bool = True,
    count: bool = True,
    check: bool = True,
    largest_steps: int = 50_000_000,
    keep: bool = False,
) -> Result:
    """Run a kernel.

    Args:
        args: one for each parameter: arrays and tensors by reference (see arguments.py), scalars, bytes, Struct,
            TensorMap by value, None for a null pointer.
        arch: 80, 89, 90, 100, 120; the PTX's target if not given. Decides limits, not what instructions mean.
        policy: schedule, completion of asynchronous operations and seed. EVERY_POLICY has the four a test should run.
        shared_bytes: dynamic shared memory.
        cluster: CTAs of a cluster; what the kernel declares if not given.
        resident: CTAs that run at once. CTAs that wait for each other must all be resident.
        ctas: run these CTAs of the grid only, by linear index: for grids too large to run whole.
        registers: what a thread of the compiled kernel has (ptxas -v); if not given, what the PTX's directives allow.
        largest_cluster: CTAs; more than 8 need cudaFuncAttributeNonPortableClusterSizeAllowed, and 16 is the most.
        numerics: how matrix instructions round: "exact", "ada", "hopper".
        races, count: turn the race detector or the counters off, for speed.
        check: raise KernelFault if there are reports.
        keep: leave the state after the last batch of CTAs in the result's `machine`, which may be hundreds of megabytes.
    """
    program = kernel.program
    entry = program.entry
    sizes, threads = shape(grid), shape(block)
    cluster_shape = shape(cluster) if cluster is not None else entry.cluster or (1, 1, 1)
    check_launch(kernel, sizes, threads, cluster_shape, args)
    values = [(v, f"argument {i} ({p.name})") for i, (v, p) in enumerate(zip(args, kernel.parameters, strict=True))]
    buffers = [(v, n) for v, n in values if is_array(v)]
    buffers += [(a, f"{n}, pointer {i}") for v, n in values if isinstance(v, Buffer) for i, a in enumerate(v.behind)]
    buffers += [(a, f"{n}, array {i}") for v, n in values if hasattr(v, "arrays") for i, a in enumerate(v.arrays())]
    arrays = DeviceArrays(buffers, kernel.module.variables)
    content = bytearray(program.parameter_bytes)
    for (parameter, offset), (value, _) in zip(program.parameters, values, strict=True):
        content[offset : offset + (parameter.size or 0)] = value_bytes(value, parameter, arrays.address_of)
    memory = (arrays.space, ConstantSpace("parameter", bytes(content)), ConstantSpace("constant", kernel.module.constants))
    total = int(np.prod(sizes))
    per_cluster = int(np.prod(cluster_shape))
    order = np.arange(total) if ctas is None else np.asarray(ctas)
    batch = resident or default_resident(int(np.prod(threads)), shared_bytes + sum(v.size or 0 for v in program.shared))
    batch = min(max(batch // per_cluster, 1) * per_cluster, len(order))
    options = Options(policy or Policy(), races, count, numerics, largest_steps, registers)
    addresses = kernel.module.addresses(arrays)
    running = len(order)
    machine = Machine(program, sizes, threads, cluster_shape, batch, options, memory, addresses, shared_bytes, arch, running)
    check_resources(machine, largest_cluster)
    if machine.policy.schedule == "random":
        order = machine.rng.permutation(order.reshape(-1, per_cluster)).reshape(-1)
    try:
        with np.errstate(all="ignore"):
            machine.scheduler.bind()
            machine.waiting = order
            while len(machine.waiting):
                now, machine.waiting = machine.waiting[:batch], machine.waiting[batch:]
                machine.place(now)
                machine.scheduler.run()
                finish(machine)
    except Stop:
        pass  # it has been reported
    arrays.copy_back()
    result = Result(
        machine.log.reports, machine.counters, machine.printed, machine.step, cluster_shape, machine if keep else None
    )
    if not keep:
        machine.dismantle()
    if check and result.reports:
        raise KernelFault(result.reports)
    return result


def default_resident(threads: int, shared: int) -> int:
    lanes = -(-threads // 32) * 32
    return max(1, min(RESIDENT_LANES // lanes, RESIDENT_SHARED // max(shared, 1)))


def check_launch(kernel: Kernel, grid: Shape, block: Shape, cluster: Shape, args: Sequence[Any]) -> None:
    """What the CUDA driver would refuse."""
    entry = kernel.program.entry
    if len(args) != len(kernel.parameters):
        raise ValueError(f"{kernel.name} takes {len(kernel.parameters)} arguments, got {len(args)}")
    if entry.required_block and block != entry.required_block:
        raise ValueError(f"{kernel.name} requires blocks of {entry.required_block} threads (.reqntid), got {block}")
    largest = int(np.prod(entry.largest_block)) if entry.largest_block else LARGEST_BLOCK
    if np.prod(block) > min(largest, LARGEST_BLOCK):
        raise ValueError(f"{kernel.name} allows at most {min(largest, LARGEST_BLOCK)} threads in a block, got {block}")
    if any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise ValueError(f"the grid {grid} is not a multiple of the cluster {cluster}")
    if entry.cluster and cluster != entry.cluster:
        raise ValueError(f"{kernel.name} requires clusters of {entry.cluster} CTAs (.reqnctapercluster), got {cluster}")


def check_resources(machine: Machine, largest_cluster: int) -> None:
    registers = machine.options.registers
    if registers is not None:
        total = -(-registers // 8) * 8 * machine.warps_per_cta * 32
        if registers > 255 or total > REGISTERS:
            message = f"{registers} registers for each of {machine.threads_per_cta} threads: a thread can have 255, "
            message += f"a CTA {REGISTERS} (this one needs {total})"
            machine.report(reports.RESOURCES, message, None)
    if machine.cluster_size > 1 and machine.arch < 90:
        machine.report(reports.RESOURCES, f"sm_{machine.arch} has no clusters", None)
    elif machine.cluster_size > largest_cluster:
        message = f"a cluster of {machine.cluster_size} CTAs: {largest_cluster} are allowed (8 everywhere, up to 16 by "
        message += "cudaFuncAttributeNonPortableClusterSizeAllowed)"
        machine.report(reports.RESOURCES, message, None, detail="cluster")
    limit = SHARED_LIMIT.get(machine.arch, 227 << 10)
    if machine.memory.shared.bytes > limit:
        message = f"the kernel uses {machine.memory.shared.bytes} bytes of shared memory, sm_{machine.arch} has {limit} for a CTA"
        machine.report(reports.RESOURCES, message, None, detail="shared")
    if machine.static_bytes > STATIC_LIMIT:
        message = (
            f"the kernel declares {machine.static_bytes} bytes of static shared memory; more than {STATIC_LIMIT} must be dynamic"
        )
        machine.report(reports.RESOURCES, message, None, detail="static")


def finish(machine: Machine) -> None:
    """The CTAs of a batch have ended."""
    for engine, operation in machine.engines.unfinished():
        message = f"the kernel ended while a {engine} operation was in flight: nothing waited for it"
        machine.report(reports.IN_FLIGHT, message, operation.instruction)
    while machine.engines.progress():
        pass
    machine.engines.close()
