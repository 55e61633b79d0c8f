"""The linear layer in FP8: fp8_linear and Fp8Linear. Autograd made of ops; no kernels and no devices here.

Three GEMMs, all with both operands stored along the contracted dimension (the layout tensor cores want):

    out    (M, N) = x   (M, K) . weight   (N, K)^T      forward format  x forward format
    grad_x (M, K) = g   (M, N) . weight_t (K, N)^T      backward format x forward format
    grad_w (N, K) = g_t (N, M) . x_t      (K, M)^T      backward format x forward format

so each tensor is quantised once, in one pass that also writes the transpose where a later GEMM needs it. Only FP8 tensors (the
transposes) and their dequant scales are kept for backward. Each direction is one op, `linear_forward` and `linear_backward`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .ops.linear_backward import op as linear_backward
from .ops.linear_forward import check_operands
from .ops.linear_forward import op as linear_forward
from .recipes import DelayedScaling, Recipe, check_recipe
from .scaling import DelayedScalingState


class _Fp8LinearFunction(torch.autograd.Function):
    """forward and backward of fp8_linear. See the module's docstring for the three GEMMs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        recipe: Recipe,
        scaling: DelayedScalingState | None,
        calibrated: bool,
        out_dtype: torch.dtype,
        backend: str | None,
    ) -> Tensor:
        needs_grad_x, needs_grad_w = ctx.needs_input_grad[:2]
        shape = x.shape
        out, x_t, dequant_x, weight_t, dequant_weight = linear_forward.call(
            x if len(shape) == 2 else x.reshape(-1, shape[-1]),
            weight,
            bias,
            _slot(scaling, "input"),
            _slot(scaling, "weight"),
            calibrated,
            scaling is not None and scaling.training,
            recipe.fp8_format.forward_dtype,
            recipe.margin,
            recipe.power_of_two_scales,
            needs_grad_w,
            needs_grad_x,
            out_dtype,
            recipe.use_fast_accum[0],
            backend=backend,
        )
        kept_x = (x_t, dequant_x) if needs_grad_w else (None, None)
        kept_weight = (weight_t, dequant_weight) if needs_grad_x else (None, None)
        ctx.save_for_backward(*kept_x, *kept_weight)
        bias_dtype = None if bias is None else bias.dtype
        ctx.rest = (recipe, scaling, calibrated, backend, shape, x.dtype, weight.dtype, bias_dtype)
        return out if len(shape) == 2 else out.view(*shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph; the guard costs as much as an op, and nothing else needs it
            return _backward_once(ctx, grad_out)
        return _backward(ctx, grad_out)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad_x, needs_grad_w, needs_grad_bias = ctx.needs_input_grad[:3]
    recipe, scaling, calibrated, backend, x_shape, x_dtype, weight_dtype, bias_dtype = ctx.rest
    g = grad_out if grad_out.dim() == 2 else grad_out.reshape(-1, grad_out.shape[-1])
    grad_x = grad_w = None
    if needs_grad_x or needs_grad_w:
        _, fast_dgrad, fast_wgrad = recipe.use_fast_accum
        grad_x, grad_w = linear_backward.call(
            g,
            *ctx.saved_tensors,
            _slot(scaling, "grad_output"),
            calibrated,
            scaling is not None and scaling.training,
            recipe.fp8_format.backward_dtype,
            recipe.margin,
            recipe.power_of_two_scales,
            x_dtype,
            weight_dtype,
            fast_dgrad,
            fast_wgrad,
            backend=backend,
        )
        if scaling is not None:
            scaling.end_step()
        grad_x = (grad_x if len(x_shape) == 2 else grad_x.view(x_shape)) if needs_grad_x else None
    grad_bias = g.sum(0, dtype=bias_dtype) if needs_grad_bias else None
    return grad_x, grad_w if needs_grad_w else None, grad_bias, None, None, None, None, None


_backward_once = once_differentiable(_backward)


def _slot(scaling: DelayedScalingState | None, tensor: str) -> list[Tensor]:
    """The state of one tensor as the ops take it."""
    return [] if scaling is None else scaling.slot(tensor)


def fp8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    recipe: Recipe | None = None,
    scaling: DelayedScalingState | None = None,
    backend: str | None = None,
) -> Tensor:
    """`x @ weight^T + bias` with x, weight and the incoming gradient quantised to FP8: drop-in for torch.nn.functional.linear.

    Args:
        x: (..., K), float32 | bfloat16 | float16.
        weight: (N, K), same dtypes; need not be x's dtype. requires_grad=False skips its gradient GEMM and saves nothing of x.
        bias: (N,) or None. Added in FP32 before the one rounding.
        recipe: Float8CurrentScaling() if None.
        scaling: the layer's DelayedScalingState; required by a DelayedScaling recipe, refused otherwise.
        backend: None picks the first able backend of each op; a name runs that one or raises.

    Returns:
        (..., N), of autocast's dtype under torch.autocast, else of x's dtype. Gradients have their tensors' dtypes.

    Numerics:
        Each operand is rounded to FP8 by `quantize` (E4M3 forward, E5M2 gradients with Format.HYBRID); products accumulate
        in FP32; one rounding to the output dtype. Gradients are those of the quantised operands, taken straight through the
        rounding. Families: see `quantize` (exact) and `scaled_mm` (reduction(K), reduction(N), reduction(M) for the three GEMMs).

    Raises:
        TypeError, ValueError: dtypes, shapes, devices; recipe and scaling that do not fit. Nothing has been computed then.
        RuntimeError: on double backward, which is not supported.

    Memory, launches:
        Saves x^T and weight^T in FP8 (1 byte an element; half of what bfloat16 saves). Forward: 2 quantisations and a GEMM;
        backward: 1 and 2, plus a sum for the bias. No host synchronisation.

    Source:
        Micikevicius et al., FP8 Formats for Deep Learning, arXiv:2209.05433.

    Example:
        >>> import torch, mpkernels as mp
        >>> x, weight = torch.randn(3, 5, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
        >>> y = mp.fp8_linear(x, weight)
        >>> y.sum().backward()
        >>> y.shape, x.grad.shape, weight.grad.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 16]), torch.Size([8, 16]))
    """
    recipe = check_recipe(recipe)
    check_operands(x, weight, bias)
    if isinstance(recipe, DelayedScaling) != (scaling is not None):
        wanted = "a DelayedScalingState, for a DelayedScaling recipe" if scaling is None else "None, for a recipe without history"
        raise ValueError(f"scaling must be {wanted}, got {scaling!r}")
    calibrated = scaling is not None and scaling.begin_forward()
    device_type = x.device.type
    out_dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
    return _Fp8LinearFunction.apply(x, weight, bias, recipe, scaling, calibrated, out_dtype, backend)


class Fp8Linear(nn.Linear):
    """torch.nn.Linear that computes in FP8. Parameters, initialisation and checkpoints are nn.Linear's.

    With a DelayedScaling recipe the layer has a submodule `scaling` (DelayedScalingState) whose buffers are in its state_dict;
    an nn.Linear checkpoint loads with strict=True all the same, and `linear_state_dict` gives one back.

    Args:
        in_features, out_features, bias, device, dtype: as for torch.nn.Linear.
        recipe: Float8CurrentScaling() if None.

    Example:
        >>> import torch, mpkernels as mp
        >>> layer = mp.Fp8Linear(32, 64, dtype=torch.bfloat16)
        >>> layer(torch.randn(4, 10, 32, dtype=torch.bfloat16)).shape
        torch.Size([4, 10, 64])
    """

    scaling: DelayedScalingState | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        recipe: Recipe | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        recipe = check_recipe(recipe)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._set_recipe(recipe)

    @classmethod
    def take_over(cls, linear: nn.Linear, recipe: Recipe) -> None:
        """Turn an nn.Linear into an Fp8Linear in place, by its class: the object stays, with every reference to it, its hooks and
        its parameters, also where it is shared or is the whole model.
        """
        linear.__class__ = cls
        assert isinstance(linear, cls)
        linear._set_recipe(recipe)

    def _set_recipe(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.scaling = None
        if isinstance(recipe, DelayedScaling):
            self.scaling = DelayedScalingState(recipe, device=self.weight.device)
            self.scaling.train(self.training)

    @classmethod
    def from_linear(cls, linear: nn.Linear, recipe: Recipe | None = None) -> Fp8Linear:
        """A layer that shares the parameters (and hooks) of an nn.Linear, which stays as it is.

        Raises:
            TypeError: linear is not an nn.Linear, or a subclass with a forward of its own.
        """
        if not isinstance(linear, nn.Linear) or type(linear).forward not in (nn.Linear.forward, cls.forward):
            raise TypeError(f"linear must be a torch.nn.Linear, got {type(linear).__name__}")
        recipe = check_recipe(recipe)
        layer = cls.__new__(cls)
        # Shallow copies of nn.Module's registries: both modules hold the same tensors, neither the other's dicts.
        layer.__dict__.update({k: v.copy() if isinstance(v, (dict, set)) else v for k, v in linear.__dict__.items()})
        layer._set_recipe(recipe)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        return fp8_linear(input, self.weight, self.bias, recipe=self.recipe, scaling=self.scaling)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={type(self.recipe).__name__}"
