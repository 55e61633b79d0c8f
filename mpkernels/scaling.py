"""The state of delayed scaling: amax histories and scales of a linear layer's three tensors, as ordinary named buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .formats import format_of
from .operands import SCALING_TENSORS
from .ops.compute_scale import compute_scale
from .ops.update_delayed_scales import op as update_delayed_scales
from .recipes import DelayedScaling

TENSORS = ("input", "weight", "grad_output")


def _in_backward() -> bool:
    """Whether autograd is running: then a forward is activation checkpointing's replay of an earlier one."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class DelayedScalingState(nn.Module):
    """Amax histories and scales for `recipe`, for one linear layer: pass it as `fp8_linear(..., scaling=state)`.

    Buffers, for each of input, weight and grad_output, all float32:
        <tensor>_amax_history   (amax_history_len,)   newest first; slot 0 collects the running step
        <tensor>_quant_scale    ()
        <tensor>_dequant_scale  ()
        step_ended              ()                    1 once a backward has run: the next training forward updates the scales

    They are saved by state_dict like any buffer. A checkpoint without them (of an nn.Linear) loads with strict=True and
    starts a new history. The buffers stay float32 under `.bfloat16()` and `.half()`. In eval mode nothing is recorded.

    Args:
        recipe: a DelayedScaling.
        device: of the buffers.

    Raises:
        TypeError: recipe is not a DelayedScaling.
    """

    step_ended: Tensor

    def __init__(self, recipe: DelayedScaling, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        if not isinstance(recipe, DelayedScaling):
            raise TypeError(f"recipe must be a DelayedScaling, got {recipe!r}")
        self.recipe = recipe
        for tensor in TENSORS:
            history = torch.zeros(recipe.amax_history_len, dtype=torch.float32, device=device)
            self.register_buffer(f"{tensor}_amax_history", history)
            self.register_buffer(f"{tensor}_quant_scale", torch.ones((), dtype=torch.float32, device=device))
            self.register_buffer(f"{tensor}_dequant_scale", torch.ones((), dtype=torch.float32, device=device))
        self.register_buffer("step_ended", torch.zeros((), dtype=torch.float32, device=device))
        # Host flags, for the first step only. calibrated: the scales mean something. warming: the first step is under way, with
        # current scaling. backward_ran: it has had a backward, so it ends with the next forward.
        self.calibrated = self.warming = self.backward_ran = False

    def reset_parameters(self) -> None:
        """Forget everything, as a new state would be. Makes buffers valid that `to_empty` left uninitialised."""
        self.calibrated = self.warming = self.backward_ran = False
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                buffer.fill_(1.0 if name.endswith("scale") else 0.0)

    def slot(self, tensor: str) -> list[Tensor]:
        """[amax_history, quant_scale, dequant_scale] of "input", "weight" or "grad_output"."""
        return [self._buffers[f"{tensor}_{name}"] for name in SCALING_TENSORS]  # type: ignore[misc]  # none is None

    def begin_forward(self) -> bool:
        """Called by a layer before it quantises: ends the step if a backward has run. Returns whether the scales may be used.

        False means: quantise with current scaling (and, in training, record what it found).
        """
        if not self.training:
            return self.calibrated or self.warming
        if _in_backward():
            return self.calibrated
        if not self.calibrated and not self._first_step_is_over():
            return False
        self._update()
        return True

    def _first_step_is_over(self) -> bool:
        """Advances the first step. A compiled backward cannot tell the host that it ran: there the first forward is the step."""
        compiling = torch.compiler.is_compiling()
        if not self.warming:
            self.reset_parameters()
            self.warming, self.calibrated = not compiling, compiling
            return False
        if not self.backward_ran and not compiling:
            return False
        self.warming, self.calibrated = False, True
        return True

    def end_step(self) -> None:
        """Called by a layer's backward: the next training forward updates the scales."""
        self.step_ended.fill_(1.0)
        if not torch.compiler.is_compiling():
            self.backward_ran = True

    def _update(self) -> None:
        recipe = self.recipe
        histories, quant_scales, dequant_scales = (list(column) for column in zip(*map(self.slot, TENSORS), strict=True))
        forward, backward = format_of(recipe.fp8_format.forward_dtype), format_of(recipe.fp8_format.backward_dtype)
        formats = (forward, forward, backward)
        if recipe.reduce_amax and dist.is_available() and dist.is_initialized():
            newest = torch.stack([history[0] for history in histories])
            dist.all_reduce(newest, op=dist.ReduceOp.MAX, group=recipe.amax_reduction_group)
            for history, amax in zip(histories, newest, strict=True):
                history[0].copy_(amax)
        if recipe.amax_compute_algo in ("max", "most_recent") and recipe.scaling_factor_compute_algo is None:
            lists = (histories, quant_scales, dequant_scales, self.step_ended, [f.max for f in formats])
            most_recent = recipe.amax_compute_algo == "most_recent"
            update_delayed_scales.call(*lists, recipe.margin, recipe.power_of_two_scales, most_recent, backend=None)
            return
        ended = self.step_ended != 0
        for history, quant_scale, dequant_scale, fp8 in zip(histories, quant_scales, dequant_scales, formats, strict=True):
            history[0].copy_(torch.where(history[0].isfinite(), history[0], 0.0))
            new_quant_scale, new_dequant_scale = self._scales(history, quant_scale, fp8.dtype)
            quant_scale.copy_(torch.where(ended, new_quant_scale, quant_scale))
            dequant_scale.copy_(torch.where(ended, new_dequant_scale, dequant_scale))
            rolled = history.roll(1)
            rolled[0].zero_()
            history.copy_(torch.where(ended, rolled, history))
        self.step_ended.zero_()

    def _scales(self, history: Tensor, quant_scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """New scales by the recipe's own functions."""
        recipe = self.recipe
        algo = recipe.amax_compute_algo
        amax = algo(history) if callable(algo) else history[0] if algo == "most_recent" else history.max()
        if recipe.scaling_factor_compute_algo is not None:
            new = recipe.scaling_factor_compute_algo(amax, quant_scale, format_of(dtype).max, recipe)
            return new, new.reciprocal()
        margin, power_of_two = recipe.margin, recipe.power_of_two_scales
        return compute_scale(amax, dtype, margin=margin, power_of_two=power_of_two, previous=quant_scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DelayedScalingState:
        """Moves the buffers but keeps them float32: bfloat16 would round the scales."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            old = before[name]
            if buffer is not None and old is not None and buffer.dtype is not torch.float32:
                self._buffers[name] = old.to(device=buffer.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = [prefix + name for name in self._buffers]
        if not any(key in state_dict for key in own):  # an nn.Linear checkpoint: nothing missing, nothing known
            self.reset_parameters()
            return
        super()._load_from_state_dict(state_dict, prefix, *args)
        histories = [state_dict[key] for key in own if key.endswith("amax_history") and key in state_dict]
        self.calibrated = any(bool((history > 0).any()) for history in histories)

    def extra_repr(self) -> str:
        return f"{self.recipe}"
