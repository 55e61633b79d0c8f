"""What a training run costs and how its FP8 tensors fare, counted on the tensors themselves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import mpkernels as mp
from mpkernels.convert import why_not_fp8
from mpkernels.formats import FloatFormat, format_of


def fp8_candidates(model: nn.Module) -> list[nn.Linear]:
    """The layers that convert_to_fp8_training converts by default, whether it has or not."""
    linears = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return [module for name, module in linears if isinstance(module, mp.Fp8Linear) or why_not_fp8(module, name) is None]


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind the tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@contextmanager
def saved_by(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what autograd keeps for backward in the forward passes of these layers.

    The list holds the tensors, and with them their memory: an address in it is never reused.
    """
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    handles = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(lambda *_: hooks.__enter__()))
        handles.append(layer.register_forward_hook(lambda *_: hooks.__exit__()))
    try:
        yield saved
    finally:
        for handle in handles:
            handle.remove()


def bytes_saved_for_backward(model: nn.Module, saved: list[Tensor]) -> int:
    """Without the parameters, which exist anyway. Autocast's copies of them, made for the forward pass, count."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return _bytes_of(t for t in saved if t.untyped_storage().data_ptr() not in parameters)


@dataclass(frozen=True)
class StateBytes:
    weights: int  # parameters, and scales of delayed scaling
    gradients: int
    optimizer: int  # moments, masters, counters

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> StateBytes:
    """Call it between backward and zero_grad, after a first step has made the optimizer's state."""
    parameters = list(model.parameters())
    state = (t for of_parameter in optimizer.state.values() for t in of_parameter.values() if isinstance(t, Tensor))
    return StateBytes(
        weights=_bytes_of([*parameters, *model.state_dict().values()]),
        gradients=_bytes_of(p.grad for p in parameters if p.grad is not None),
        optimizer=_bytes_of(state),
    )


@dataclass
class Fp8Shares:
    """Of the values of one kind of tensor, over all layers: how many FP8 lost."""

    nonzero: int = 0
    underflowed: int = 0  # not zero, but their FP8 code is
    clipped: int = 0  # too large: saturation, not rounding, decided their code

    @property
    def underflow(self) -> float:
        return self.underflowed / max(self.nonzero, 1)

    @property
    def saturation(self) -> float:
        return self.clipped / max(self.nonzero, 1)


def overflow_threshold(fp8: FloatFormat) -> float:
    """The magnitude from which rounding alone would leave the format: half a step above its maximum."""
    step = 2.0 ** (math.frexp(fp8.max)[1] - 1) * fp8.epsilon
    return fp8.max + step / 2


@dataclass
class Seen:
    """The measurements of a run."""

    losses: list[float] = field(default_factory=list)
    turn_seconds: list[float] = field(default_factory=list)  # of one step, a mean for each turn
    validation_loss: float = math.nan
    skipped_steps: int = 0
    saved_bytes: int = 0
    state: StateBytes = StateBytes(0, 0, 0)
    fp8_shares: dict[str, Fp8Shares] = field(default_factory=dict)


class Fp8Observer:
    """While it is open, quantises what the FP8 layers quantise, with the same scales, and counts what is lost."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, mp.Fp8Linear)]
        self.shares: dict[str, Fp8Shares] = defaultdict(Fp8Shares)
        self.handles: list[Any] = []

    def __enter__(self) -> Fp8Observer:
        for layer in self.layers:
            self.handles.append(layer.register_forward_hook(self._forward))
            self.handles.append(layer.register_full_backward_hook(self._backward))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def _forward(self, layer: mp.Fp8Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        dtype = layer.recipe.fp8_format.forward_dtype
        self._count(layer, "input", inputs[0], dtype)
        self._count(layer, "weight", layer.weight, dtype)

    def _backward(self, layer: Any, grad_inputs: Any, grad_outputs: Any) -> None:
        self._count(layer, "grad_output", grad_outputs[0], layer.recipe.fp8_format.backward_dtype)

    @torch.no_grad()
    def _count(self, layer: mp.Fp8Linear, name: str, x: Tensor, dtype: torch.dtype) -> None:
        if layer.scaling is None:
            margin, power_of_two = layer.recipe.margin, layer.recipe.power_of_two_scales
            quant_scale, _ = mp.compute_scale(mp.amax(x), dtype, margin=margin, power_of_two=power_of_two)
        else:
            _, quant_scale, _ = layer.scaling.slot(name)
        codes = mp.quantize(x, quant_scale, dtype).q
        share = self.shares[name]
        nonzero = x != 0
        share.nonzero += int(nonzero.sum())
        share.underflowed += int((nonzero & (codes.float() == 0)).sum())
        share.clipped += int((x.float().abs() * quant_scale >= overflow_threshold(format_of(dtype))).sum())
