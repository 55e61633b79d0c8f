"""Asynchronous operations, and when they happen.

An operation has two moments. It is *performed* when its bytes move: at issue, at a random time, or as late as the
program allows, by policy, since the hardware promises none of these. It is *retired* when the program has made sure that
it is complete (a wait, an mbarrier phase); until then the sanitizer holds its bytes to be in flight, whatever the policy.

An engine is a queue of operations of one kind: "cp.async", "tma load", "bulk store", "wgmma", "tcgen05", ... Handlers
submit operations; waits force them; the scheduler lets them happen between instructions, and all of them must happen when
no thread can run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .syntax import Instruction

COMPLETIONS = ("late", "early", "random")
CHANCE = 0.1  # of an operation being performed at one scheduling decision under "random"


@dataclass(frozen=True)
class Policy:
    """How the freedom of the machine is used.

    schedule: "lockstep" runs all warps that are at the lowest program counter together (fast); "random" picks warps at
        random and runs them for a random number of instructions.
    completion: "late", "early" or "random", or a mapping from engine to one of them ("*" for the others).
    wgmma_scope: "warpgroup": a wait of one warp tells that a wgmma has read its operands for all four; "warp": for that warp.
    tcgen05_fences: "implied": synchronisation orders tcgen05 as it does everything else, as Triton's kernels rely on; "explicit":
        only with the tcgen05.fence that the ISA wants before and after it.
    """

    schedule: str = "lockstep"
    completion: str | Mapping[str, str] = "late"
    seed: int = 0
    wgmma_scope: str = "warpgroup"
    tcgen05_fences: str = "implied"

    def __post_init__(self) -> None:
        if self.schedule not in ("lockstep", "random"):
            raise ValueError(f"schedule must be lockstep or random, got {self.schedule!r}")
        if self.wgmma_scope not in ("warpgroup", "warp"):
            raise ValueError(f"wgmma_scope must be warpgroup or warp, got {self.wgmma_scope!r}")
        if self.tcgen05_fences not in ("implied", "explicit"):
            raise ValueError(f"tcgen05_fences must be implied or explicit, got {self.tcgen05_fences!r}")
        for each in [self.completion] if isinstance(self.completion, str) else self.completion.values():
            if each not in COMPLETIONS:
                raise ValueError(f"completion must be one of {COMPLETIONS}, got {each!r}")

    def of(self, engine: str) -> str:
        if isinstance(self.completion, str):
            return self.completion
        return self.completion.get(engine, self.completion.get("*", "late"))


EVERY_POLICY = (
    Policy("lockstep", "late"),
    Policy("lockstep", "early"),
    Policy("random", "late", seed=1),
    Policy("random", "random", seed=2),
)


@dataclass
class Operation:
    """`perform` moves the bytes. `order`: operations of one engine with equal order are performed first in, first out;
    None: in any order. `owner`: whatever the handler wants to find its operations by.
    """

    instruction: Instruction
    perform: Callable[[], None]
    order: object = None
    owner: object = None
    done: bool = False
    # A retirement by a wait of the issuer; the engine does not call it.
    retire: Callable[[], None] | None = None
    # False: the program need not wait for it before it ends (its completion is seen by others).
    must_retire: bool = True
    tags: dict[str, object] = field(default_factory=dict)

    def complete(self) -> None:
        if not self.done:
            self.done = True
            self.perform()


class Engine:
    """A queue of operations that have been issued and not yet been retired."""

    def __init__(self, name: str, completion: str, rng: np.random.Generator) -> None:
        self.name, self.completion, self.rng = name, completion, rng
        self.operations: list[Operation] = []

    def submit(self, operation: Operation) -> Operation:
        self.operations.append(operation)
        if self.completion == "early":
            self.force(operation)
        return operation

    def force(self, operation: Operation) -> None:
        """Perform an operation now, and first those that must come before it."""
        if operation.done:
            return
        for earlier in list(self.operations) if operation.order is not None else ():
            if earlier is operation:
                break
            if earlier.order == operation.order:
                earlier.complete()
        operation.complete()
        self._forget()

    def retire(self, operations: list[Operation]) -> None:
        """The program knows that these are complete."""
        for operation in operations:
            self.force(operation)
            if operation.retire is not None:
                operation.retire()
        gone = {id(o) for o in operations}
        self.operations = [o for o in self.operations if id(o) not in gone]

    def close(self) -> None:
        """The program has ended and everything is performed: retire what it did not have to wait for."""
        self.retire([o for o in self.operations if not o.must_retire])

    def _forget(self) -> None:
        """Operations without a retirement leave the queue when they have been performed."""
        self.operations = [o for o in self.operations if not o.done or o.retire is not None]

    def waiting(self) -> list[Operation]:
        """Operations that may be performed next."""
        found, orders = [], set()
        for operation in self.operations:
            if not operation.done and (operation.order is None or operation.order not in orders):
                found.append(operation)
            if not operation.done and operation.order is not None:
                orders.add(operation.order)
        return found

    def tick(self) -> None:
        """Between two instructions."""
        if self.completion == "random" and self.operations:
            for operation in self.waiting():
                if self.rng.random() < CHANCE:
                    self.force(operation)

    def progress(self) -> bool:
        """Nothing can run: perform one operation. False if there is none."""
        waiting = self.waiting()
        if not waiting:
            return False
        self.force(waiting[int(self.rng.integers(len(waiting)))] if self.completion == "random" else waiting[0])
        return True

    def unfinished(self) -> list[Operation]:
        """What a program must not leave behind."""
        return [o for o in self.operations if o.must_retire]


class Engines:
    """The engines of a launch, made on first use."""

    def __init__(self, policy: Policy, rng: np.random.Generator) -> None:
        self.policy, self.rng = policy, rng
        self.engines: dict[str, Engine] = {}

    def __getitem__(self, name: str) -> Engine:
        return self.get(name)

    def get(self, name: str, kind: type[Engine] = Engine) -> Engine:
        if name not in self.engines:
            self.engines[name] = kind(name, self.policy.of(name), self.rng)
        return self.engines[name]

    def tick(self) -> None:
        for engine in self.engines.values():
            engine.tick()

    def progress(self) -> bool:
        names = list(self.engines)
        if self.policy.schedule == "random":
            self.rng.shuffle(names)
        return any(self.engines[name].progress() for name in names)

    def unfinished(self) -> list[tuple[str, Operation]]:
        return [(name, operation) for name, engine in self.engines.items() for operation in engine.unfinished()]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()

    def reset(self) -> None:
        self.engines.clear()
