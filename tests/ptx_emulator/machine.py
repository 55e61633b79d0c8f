"""The state of a launch: lanes, registers, memory, clocks, queues. Instruction handlers work on this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import reports
from .asynchrony import Engines, Policy
from .counters import Counters
from .grid_races import GridRaces
from .memory import Memory
from .program import Program
from .registers import WARP, RegisterFile
from .registers_in_flight import RegistersInFlight
from .reports import ReportLog
from .sanitizer import Sanitizer
from .scheduler import Scheduler
from .spaces import LOCAL_WINDOW, PRIVATE_BASE, SHARED_BASE, ConstantSpace, GlobalSpace, LocalSpace, SharedSpace
from .syntax import Instruction

Shape = tuple[int, int, int]
REGISTERS = 1 << 16  # of an SM


@dataclass
class Options:
    """What a launch checks and how it computes.

    numerics: "exact" (sums of a matrix instruction are exact, one rounding), or a published model of tensor cores:
        "ada", "hopper"; see numerics.py.
    """

    policy: Policy = field(default_factory=Policy)
    races: bool = True
    counters: bool = True
    numerics: str = "exact"
    largest_steps: int = 50_000_000
    registers: int | None = None  # of a thread at launch, if the caller knows


class Machine:
    """`ctas` CTAs (whole clusters) are resident at once. Lane l belongs to warp l // 32 and resident CTA cta_of[l]."""

    def __init__(
        self,
        program: Program,
        grid: Shape,
        block: Shape,
        cluster: Shape,
        ctas: int,
        options: Options,
        memory: tuple[GlobalSpace, ConstantSpace, ConstantSpace],
        addresses: dict[str, int],
        dynamic_bytes: int,
        arch: int | None = None,
        running: int = 1,
    ) -> None:
        """`running`: how many CTAs will be placed in all."""
        self.kernel = program
        self.program = program.instructions
        self.arch = arch or program.arch
        self.options, self.policy = options, options.policy
        self.grid, self.block, self.cluster = grid, block, cluster
        self.cluster_size = int(np.prod(cluster))
        self.ctas, self.running = ctas, running
        self.threads_per_cta = int(np.prod(block))
        self.warps_per_cta = -(-self.threads_per_cta // WARP)
        self.lanes_per_cta = self.warps_per_cta * WARP
        self.num_warps = self.warps_per_cta * ctas
        self.lanes = self.lanes_per_cta * ctas
        self.dynamic_bytes = dynamic_bytes
        self.registers_at_launch = self._registers()
        self.rng = np.random.default_rng(options.policy.seed)
        self.step = 0  # instructions executed so far: the clock of the sanitizer and of %clock
        self.log = ReportLog(program.name, program.files)
        self.printed: list[str] = []
        self.counters = Counters(self.program, options.counters)
        self.registers = RegisterFile(program.registers, self.lanes)
        self.addresses = dict(addresses)
        space, param, const = memory
        self.memory = Memory(self, space, self._shared(), self._local(), param, const)
        self.placed: list[int] = []  # the CTAs that have been resident, by linear number
        self._lanes()
        self.sanitizer = Sanitizer(self, program.cell, options.races)
        self.grid_races = GridRaces(self, program.global_cell) if options.races else None
        self.registers_in_flight = RegistersInFlight(self)
        self.engines = Engines(options.policy, self.rng)
        self.scheduler = Scheduler(self)
        self.waiting = np.zeros(0, np.int64)  # CTAs that have not been launched yet, whole clusters
        self.state: dict[str, Any] = {}  # what families keep between instructions, by name; emptied for each batch

    def _registers(self) -> int | None:
        """Registers of a thread at launch; None if neither the caller nor the PTX says enough to know."""
        entry = self.kernel.entry
        block = entry.required_block or entry.largest_block
        if self.options.registers or entry.largest_registers or block is None:
            return self.options.registers or entry.largest_registers
        threads = -(-int(np.prod(block)) // WARP) * WARP * entry.least_ctas
        return min(REGISTERS // threads // 8 * 8, 256)  # what ptxas may use is what a kernel with setmaxnreg is launched with

    def _shared(self) -> SharedSpace:
        offset, names = SHARED_BASE, []
        for variable in self.kernel.shared:
            offset = -(-offset // variable.align) * variable.align
            self.addresses[variable.key] = offset
            names.append((variable.name, offset, variable.size or 0))
            offset += variable.size or 0
        align = max([v.align for v in self.kernel.dynamic], default=16)
        if self.kernel.dynamic or self.dynamic_bytes:
            offset = -(-offset // align) * align
            names.append((self.kernel.dynamic[0].name if self.kernel.dynamic else "(dynamic)", offset, self.dynamic_bytes))
        for variable in self.kernel.dynamic:
            self.addresses[variable.key] = offset
        self.static_bytes = offset - SHARED_BASE
        return SharedSpace(self.ctas, self.static_bytes + self.dynamic_bytes, self.cluster_size, names)

    def _local(self) -> LocalSpace:
        offset = PRIVATE_BASE
        for variable in self.kernel.local:
            offset = -(-offset // variable.align) * variable.align
            self.addresses[variable.key] = offset + (LOCAL_WINDOW if variable.space == "param" else 0)
            offset += variable.size or 0
        for variable, at in self.kernel.parameters:
            self.addresses[variable.key] = PRIVATE_BASE + at
        return LocalSpace(self.lanes, offset - PRIVATE_BASE)

    def _lanes(self) -> None:
        lane = np.arange(self.lanes)
        self.cta_of = lane // self.lanes_per_cta
        self.cta_number = np.zeros(self.lanes, np.int32)  # from 1, in the order of running; those that run are few of some grids
        self.cta_rank = (self.cta_of % self.cluster_size).astype(np.uint32)
        thread = lane % self.lanes_per_cta
        self.exists = thread < self.threads_per_cta  # the rest pads the last warp
        x, y, _ = self.block
        self.thread_index = [thread % x, thread // x % y, thread // (x * y)]
        self.specials: dict[str, np.ndarray] = {}
        lane_id = (lane % WARP).astype(np.uint32)
        one = np.uint32(1)
        fixed = {
            "laneid": lane_id,
            "warpid": thread // WARP,
            "nwarpid": self.warps_per_cta,
            "smid": self.cta_of,
            "nsmid": 132,
            "gridid": 0,
        }
        fixed |= {
            "lanemask_eq": one << lane_id,
            "lanemask_lt": (one << lane_id) - one,
            "lanemask_le": ((one << lane_id) - one) | one << lane_id,
        }
        fixed |= {"lanemask_gt": ~fixed["lanemask_le"], "lanemask_ge": ~fixed["lanemask_lt"]}
        fixed |= {
            "cluster_ctarank": self.cta_rank,
            "cluster_nctarank": self.cluster_size,
            "is_explicit_cluster": int(self.cluster_size > 1),
        }
        fixed |= {
            "dynamic_smem_size": self.dynamic_bytes,
            "total_smem_size": self.static_bytes + self.dynamic_bytes,
            "clock": 0,
            "clock_hi": 0,
        }
        for axis, name in enumerate("xyz"):
            fixed[f"tid.{name}"] = self.thread_index[axis]
            fixed[f"ntid.{name}"] = self.block[axis]
            fixed[f"nctaid.{name}"] = self.grid[axis]
            fixed[f"cluster_nctaid.{name}"] = self.cluster[axis]
            fixed[f"nclusterid.{name}"] = self.grid[axis] // self.cluster[axis]
            fixed[f"ctaid.{name}"] = fixed[f"clusterid.{name}"] = 0
        rank = self.cta_rank.astype(np.int64)
        fixed["cluster_ctaid.x"] = rank % self.cluster[0]
        fixed["cluster_ctaid.y"] = rank // self.cluster[0] % self.cluster[1]
        fixed["cluster_ctaid.z"] = rank // (self.cluster[0] * self.cluster[1])
        for name, value in fixed.items():
            self.specials[name] = np.array(np.broadcast_to(value, (self.lanes,)), np.uint32)
        for name in ("clock64", "globaltimer"):
            self.specials[name] = np.zeros(self.lanes, np.uint64)

    def special(self, name: str) -> np.ndarray:
        """A special register over all lanes."""
        return self.specials[name]

    # One batch of CTAs.

    def place(self, ctas: np.ndarray) -> None:
        """Make CTAs (linear numbers in order of clusters, then rank) resident, and everything as at their start."""
        where = self.index_of(np.asarray(ctas))
        present = np.zeros(self.lanes, bool)
        present[: len(ctas) * self.lanes_per_cta] = True
        for axis, name in enumerate("xyz"):
            index = np.zeros(self.ctas, np.uint32)
            index[: len(ctas)] = where[axis]
            self.specials[f"ctaid.{name}"][:] = index[self.cta_of]
            self.specials[f"clusterid.{name}"][:] = index[self.cta_of] // self.cluster[axis]
        number = np.full(self.ctas, len(self.placed) + 1, np.int32)  # empty places at the end have that of the first
        number[: len(ctas)] += np.arange(len(ctas), dtype=np.int32)
        self.cta_number[:] = number[self.cta_of]
        self.placed += [int(cta) for cta in ctas]
        if self.grid_races is not None:
            self.grid_races.place()
        self.registers.reset()
        self.memory.shared.reset()
        self.memory.local.reset()
        self.sanitizer.reset()
        self.registers_in_flight.reset()
        self.engines.reset()
        self.state.clear()
        self.scheduler.start(present & self.exists)

    def index_of(self, cta: Any) -> tuple[Any, ...]:
        """The index in the grid of a CTA (or an array of them) given by its number in order of clusters, then rank."""
        cluster, rank = cta // self.cluster_size, cta % self.cluster_size
        across = [g // c for g, c in zip(self.grid, self.cluster, strict=True)]
        outer = cluster % across[0], cluster // across[0] % across[1], cluster // (across[0] * across[1])
        x, y, _ = self.cluster
        inner = rank % x, rank // x % y, rank // (x * y)
        return tuple(o * c + i for o, c, i in zip(outer, self.cluster, inner, strict=True))

    # For handlers.

    def family_state(self, name: str, make: Callable[[], Any]) -> Any:
        """A family's state of this batch, made on first use."""
        if name not in self.state:
            self.state[name] = make()
        return self.state[name]

    def thread_of(self, lane: int) -> tuple[Shape, Shape]:
        """(thread index, CTA index) of a lane."""
        thread = tuple(int(axis[lane]) for axis in self.thread_index)
        cta = tuple(int(self.specials[f"ctaid.{name}"][lane]) for name in "xyz")
        return thread, cta  # type: ignore[return-value]

    def report(
        self,
        kind: str,
        message: str,
        instruction: Instruction | None,
        lane: int | None = None,
        address: int | None = None,
        count: int = 1,
        detail: str = "",
    ) -> None:
        thread, cta = (None, None) if lane is None else self.thread_of(int(lane))
        self.log.add(kind, message, instruction, thread, cta, address, detail, count)

    def stop(self, kind: str, message: str, instruction: Instruction | None = None, lane: int | None = None) -> None:
        """Report something after which nothing sensible can follow."""
        self.report(kind, message, instruction, lane)
        raise reports.Stop(message)

    # The end.

    def dismantle(self) -> None:
        """Free the memory now. Parts and machine refer to each other, so it would wait for the garbage collector, which counts
        objects and does not see that a few arrays are hundreds of megabytes.
        """
        vars(self).clear()
