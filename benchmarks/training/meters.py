"""Where a step's time and memory go. Both are counted in steps of their own, apart from the steps that are timed.

Time: a TorchDispatchMode takes the time of each operator that Python or autograd calls (on a GPU by CUDA events around it), and
adds it to a component. What an operator calls inside itself counts as its own, but linear_forward and linear_backward are taken
apart into the operators that they are made of. The components of a step add up to less than the
step; the rest is Python, autograd and the dispatcher, and on a GPU the time in which it waits for them. The mode itself adds some
two microseconds an operator to that rest, so it is an upper bound, and these steps are a little longer than those that are timed.

Memory: on a CPU the profiler's record of every allocation and release of torch's allocator, summed up in order of time; the peak
is the highest sum. On a GPU torch.cuda.max_memory_allocated. Either counts from the step's start; what lives then (weights and
optimizer state of this model, no other's) is counted by its storages and added.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from examples.lm import measure
from mpkernels.dispatch import OPS

from .variants import Training

GEMM = {"aten::mm", "aten::addmm", "aten::_scaled_mm", "aten::_scaled_mm_v2", "mpkernels::scaled_mm", "mpkernels::scaled_mm_out"}
QUANTIZE = {f"mpkernels::{name}" for name in ("quantize", "quantize_current", "amax", "compute_scale", "update_delayed_scales_")}
SCALER = {
    "mpkernels::unscale_and_check_",
    "mpkernels::grad_norm_and_check",
    "mpkernels::update_loss_scale_",
    "aten::_amp_foreach_non_finite_check_and_unscale_",
    "aten::_amp_update_scale_",
    "aten::_foreach_norm.Scalar",
    "aten::_foreach_mul_.Tensor",  # clip_grad_norm_
}
COMPONENTS = ("GEMM", "quantise", "casts", "other ops", "scaler, norm", "optimizer")


def component_of(op: str, in_update: bool) -> str:
    """The component of an operator, `namespace::name.overload`, in the model or in the update."""
    if op in SCALER:
        return "scaler, norm"
    if in_update:
        return "optimizer"
    if op in GEMM:
        return "GEMM"
    if op in QUANTIZE:
        return "quantise"
    return "casts" if op == "aten::_to_copy" else "other ops"


@dataclass
class Component:
    calls: int = 0
    seconds: float = 0.0


class OpTimes(TorchDispatchMode):
    """While it is open, counts and times operators. `in_update` says which half of the step they belong to."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.components: dict[str, Component] = defaultdict(Component)
        self.in_update = False
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[Component, torch.cuda.Event, torch.cuda.Event]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, _, name = func.name().partition("::")
        op = OPS.get(name) if namespace == "mpkernels" else None
        if op is not None and op.parts is not None:
            with self:
                return op.parts(*args, **(kwargs or {"backend": None}))
        component = self.components[component_of(func.name(), self.in_update)]
        component.calls += 1
        if self._on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            result = func(*args, **(kwargs or {}))
            end.record()
            self._events.append((component, begin, end))
            return result
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        component.seconds += time.perf_counter() - start
        return result

    def finish(self) -> dict[str, Component]:
        """The components, once the device is done."""
        if self._events:
            torch.cuda.synchronize()
        for component, begin, end in self._events:
            component.seconds += begin.elapsed_time(end) / 1e3
        self._events.clear()
        return self.components


@dataclass
class Split:
    """A step by components: what it took in all, the components, and `rest_seconds`, which is in none of them."""

    step_seconds: float
    components: dict[str, Component]

    @property
    def rest_seconds(self) -> float:
        return self.step_seconds - sum(component.seconds for component in self.components.values())


def split(training: Training, batch: tuple[torch.Tensor, ...]) -> Split:
    """One step by components."""
    synchronise = torch.cuda.synchronize if training.device.type == "cuda" else lambda: None
    with OpTimes(training.device) as times:
        synchronise()
        start = time.perf_counter()
        training.forward_backward(batch)
        times.in_update = True
        training.update()
        synchronise()
        seconds = time.perf_counter() - start
    seen = times.finish()
    return Split(seconds, {name: seen.get(name, Component()) for name in COMPONENTS})


def least_split(trainings: list[Training], batch: tuple[torch.Tensor, ...], rounds: int) -> dict[str, Split]:
    """Of each training the step that took least, of a few in turn: other work on the machine only ever adds."""
    least: dict[str, Split] = {}
    for _ in range(rounds):
        for training in trainings:
            name, one = training.variant.name, split(training, batch)
            if name not in least or one.step_seconds < least[name].step_seconds:
                least[name] = one
    return least


@dataclass(frozen=True)
class Memory:
    """Bytes. `peak` is the most that is alive within a step: weights, optimizer state, gradients, activations, scratch."""

    weights: int
    gradients: int
    optimizer: int
    peak: int = field(default=0)


def _peak_of_cpu_allocations(step: Callable[[], None]) -> int:
    gc.collect()  # what others left must not be released in between, and counted as this step's
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _peak_of_gpu_allocations(step: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def memory(training: Training, batch: tuple[torch.Tensor, ...]) -> Memory:
    """Of a training that has taken a step, so that the optimizer's state exists."""
    counted: list[measure.StateBytes] = []

    def step() -> None:
        training.forward_backward(batch)
        counted.append(measure.state_bytes(training.model, training.optimizer))
        training.update()

    peak_of = _peak_of_gpu_allocations if training.device.type == "cuda" else _peak_of_cpu_allocations
    above = peak_of(step)
    state = counted[0]
    return Memory(state.weights, state.gradients, state.optimizer, state.weights + state.optimizer + above)
