"""Recipes: how a layer's tensors are scaled into FP8. Plain immutable data, with TransformerEngine's names and defaults
where it has them.

Two ways to choose the scales of a tensor:

    Float8CurrentScaling   from the tensor itself: amax first, then cast. Nothing to remember; the default.
    DelayedScaling         from the amax of earlier steps: one pass over the data, at the price of a history to keep
                           (`mpkernels.DelayedScalingState`) and of saturation when a tensor grows suddenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import torch
from torch import Tensor

from .ops.compute_scale import check_margin

FastAccum = tuple[bool, bool, bool]


class Format(Enum):
    """Which FP8 formats a layer uses: (forward, backward).

    E4M3 has the precision that activations and weights want, E5M2 the range that gradients want; HYBRID uses each where it
    belongs (Micikevicius et al., FP8 Formats for Deep Learning, 2022, section 3).
    """

    E4M3 = (torch.float8_e4m3fn, torch.float8_e4m3fn)
    E5M2 = (torch.float8_e5m2, torch.float8_e5m2)
    HYBRID = (torch.float8_e4m3fn, torch.float8_e5m2)

    @property
    def forward_dtype(self) -> torch.dtype:
        """Of activations and weights."""
        return self.value[0]

    @property
    def backward_dtype(self) -> torch.dtype:
        """Of the gradients of activations."""
        return self.value[1]


def _check_common(fp8_format: Format, margin: int, use_fast_accum: FastAccum) -> None:
    if not isinstance(fp8_format, Format):
        raise TypeError(f"fp8_format must be a mpkernels.Format, got {fp8_format!r}")
    if fp8_format is Format.E5M2:
        raise ValueError(
            "fp8_format must be Format.HYBRID or Format.E4M3, got Format.E5M2: training with E5M2 alone does not converge"
        )
    if not isinstance(margin, int):
        raise TypeError(f"margin must be an int (powers of two of headroom), got {margin!r}")
    check_margin(margin)
    if len(use_fast_accum) != 3 or not all(isinstance(flag, bool) for flag in use_fast_accum):
        raise ValueError(f"use_fast_accum must be three bools (forward, dgrad, wgrad), got {use_fast_accum!r}")


@dataclass(frozen=True)
class Float8CurrentScaling:
    """Each tensor is scaled by its own amax, taken just before the cast: `quant_scale = fp8_max / (amax * 2^margin)`.

    Args:
        fp8_format: Format.HYBRID (E4M3 forward, E5M2 gradients) or Format.E4M3.
        margin: powers of two of headroom below the format's maximum.
        power_of_two_scales: round quant scales down to powers of two, so that scaling itself never rounds.
        use_fast_accum: for (forward, dgrad, wgrad): let tensor cores keep their sums in reduced precision (14 bits on
            H100) instead of promoting to FP32 every 128 products.

    Example:
        >>> import mpkernels as mp
        >>> mp.Float8CurrentScaling(margin=1).fp8_format
        <Format.HYBRID: (torch.float8_e4m3fn, torch.float8_e5m2)>
    """

    fp8_format: Format = Format.HYBRID
    margin: int = 0
    power_of_two_scales: bool = False
    use_fast_accum: FastAccum = (True, False, False)

    def __post_init__(self) -> None:
        _check_common(self.fp8_format, self.margin, self.use_fast_accum)


@dataclass(frozen=True)
class DelayedScaling:
    """Each tensor is scaled by the amax of earlier steps: `quant_scale = fp8_max / (algo(amax_history) * 2^margin)`.

    A step ends with the first training forward after a backward: only then do new scales take effect, so all uses of a layer
    within a step, and the replays of activation checkpointing, see the same scales. The very first forward of a layer has no
    history; it, and the backward that belongs to it, use current scaling.

    Args:
        fp8_format: Format.HYBRID (E4M3 forward, E5M2 gradients) or Format.E4M3.
        margin: powers of two of headroom below the format's maximum.
        amax_history_len: steps remembered.
        amax_compute_algo: "max" over the history, "most_recent", or a function from the history (amax_history_len,)
            float32, newest first, to a () float32 amax. A function must not read values back to the host.
        scaling_factor_compute_algo: None for the formula above, or a function (amax, quant_scale, fp8_max, recipe) ->
            quant_scale, all () float32 tensors but the recipe and fp8_max (a float).
        reduce_amax: with torch.distributed initialised, take the maximum of each amax over `amax_reduction_group`, so
            that replicas use equal scales.
        amax_reduction_group: process group, or None for all ranks.
        power_of_two_scales, use_fast_accum: as for Float8CurrentScaling.
    """

    fp8_format: Format = Format.HYBRID
    margin: int = 0
    amax_history_len: int = 1024
    amax_compute_algo: Literal["max", "most_recent"] | Callable[[Tensor], Tensor] = "max"
    scaling_factor_compute_algo: Callable[[Tensor, Tensor, float, DelayedScaling], Tensor] | None = None
    reduce_amax: bool = True
    amax_reduction_group: Any = None
    power_of_two_scales: bool = False
    use_fast_accum: FastAccum = (True, False, False)

    def __post_init__(self) -> None:
        _check_common(self.fp8_format, self.margin, self.use_fast_accum)
        if not isinstance(self.amax_history_len, int) or self.amax_history_len < 1:
            raise ValueError(f"amax_history_len must be an int >= 1, got {self.amax_history_len!r}")
        if self.amax_compute_algo not in ("max", "most_recent") and not callable(self.amax_compute_algo):
            raise ValueError(f'amax_compute_algo must be "max", "most_recent" or a function, got {self.amax_compute_algo!r}')
        if self.scaling_factor_compute_algo is not None and not callable(self.scaling_factor_compute_algo):
            raise TypeError(f"scaling_factor_compute_algo must be None or a function, got {self.scaling_factor_compute_algo!r}")


Recipe = Float8CurrentScaling | DelayedScaling


def check_recipe(recipe: Recipe | None) -> Recipe:
    """The recipe, or the default for None.

    Raises:
        TypeError: it is neither.
    """
    if recipe is None:
        return DEFAULT_RECIPE
    if not isinstance(recipe, (Float8CurrentScaling, DelayedScaling)):
        raise TypeError(f"recipe must be a Float8CurrentScaling or a DelayedScaling, got {recipe!r}")
    return recipe


DEFAULT_RECIPE = Float8CurrentScaling()
