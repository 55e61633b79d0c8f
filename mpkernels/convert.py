"""Turning a model's linear layers into FP8 ones, and its checkpoints back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from .linear import Fp8Linear
from .recipes import Recipe, check_recipe
from .scaling import DelayedScalingState

ModuleT = TypeVar("ModuleT", bound=nn.Module)

logger = logging.getLogger("mpkernels")

# What the last projection of language models, classifiers and diffusion models is called. Its rounding error goes straight
# into the loss; TransformerEngine's and torchao's guides keep it in high precision too.
HEAD_NAMES = frozenset({"lm_head", "head", "output", "output_layer", "out_head", "classifier", "score", "embed_out", "unembed"})
# With K features in and N out a GEMM does 2 M N K flops on the (M + N) K + M N values that quantising must read and write: under
# about a hundred a side the passes over memory and the calls cost more than FP8 can save in the GEMM.
SMALLEST_FEATURES = 128


def why_not_fp8(module: nn.Module, fqn: str) -> str | None:
    """None if `convert_to_fp8_training` would convert this nn.Linear by default, else the reason it would leave it.

    Example:
        >>> from torch import nn
        >>> why_not_fp8(nn.Linear(512, 512), "blocks.0.proj") is None
        True
        >>> why_not_fp8(nn.Linear(512, 50257), "lm_head")
        'is an output head'
    """
    if not isinstance(module, nn.Linear):
        return "is not a torch.nn.Linear"
    if isinstance(module, Fp8Linear):
        return "is an Fp8Linear already"
    if type(module).forward is not nn.Linear.forward or type(module) is not nn.Linear:
        return f"is a {type(module).__name__}, whose forward may differ"
    if fqn.rpartition(".")[2] in HEAD_NAMES:
        return "is an output head"
    if min(module.in_features, module.out_features) < SMALLEST_FEATURES:
        return f"is tiny ({module.in_features} -> {module.out_features}, under {SMALLEST_FEATURES})"
    return None


def convert_to_fp8_training(
    model: ModuleT,
    *,
    recipe: Recipe | None = None,
    module_filter_fn: Callable[[nn.Module, str], bool] | None = None,
) -> ModuleT:
    """Turn the nn.Linear layers of a model into Fp8Linear, in place, and return the model.

    Parameters stay the same objects (an optimizer built before keeps working), and so do hooks, names and checkpoints.

    Args:
        model: any module, an nn.Linear included.
        recipe: Float8CurrentScaling() if None.
        module_filter_fn: (module, fully qualified name) -> whether to convert it; asked for each plain nn.Linear. Default:
            everything but output heads (by name, or sharing its weight with another module, as tied embeddings do) and
            tiny layers.

    Says what it did on the logger "mpkernels" at level INFO, and warns if nothing was converted.

    Raises:
        TypeError: model is not a module, or the recipe not a recipe.

    Example:
        >>> from torch import nn
        >>> import mpkernels as mp
        >>> model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 10))
        >>> mp.convert_to_fp8_training(model)
        Sequential(
          (0): Fp8Linear(in_features=256, out_features=512, bias=True, recipe=Float8CurrentScaling)
          (1): GELU(approximate='none')
          (2): Linear(in_features=512, out_features=10, bias=True)
        )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    recipe = check_recipe(recipe)
    shared = _shared_parameters(model)
    converted, left = [], []
    for fqn, module in list(model.named_modules()):
        if type(module) is not nn.Linear:
            continue
        reason = _reason_to_leave(module, fqn, shared, module_filter_fn)
        if reason is None:
            Fp8Linear.take_over(module, recipe)
            converted.append(fqn or "(the model)")
        else:
            left.append(f"{fqn} ({reason})")
    _say(model, recipe, converted, left)
    return model


def _shared_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that two different modules own (weight tying)."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {parameter for parameter, count in owners.items() if count > 1}


def _reason_to_leave(
    module: nn.Linear, fqn: str, shared: set[int], module_filter_fn: Callable[[nn.Module, str], bool] | None
) -> str | None:
    if module_filter_fn is not None:
        return None if module_filter_fn(module, fqn) else "by module_filter_fn"
    reason = why_not_fp8(module, fqn)
    if reason is None and id(module.weight) in shared:
        return "shares its weight with another module"
    return reason


def _say(model: nn.Module, recipe: Recipe, converted: list[str], left: list[str]) -> None:
    total = len(converted) + len(left)
    logger.info(
        "%s: converted %d of %d Linear layers to FP8: %s; left: %s",
        type(recipe).__name__,
        len(converted),
        total,
        ", ".join(converted) or "none",
        ", ".join(left) or "none",
    )
    if not converted:
        reasons = "; ".join(left) or f"{type(model).__name__} has no plain torch.nn.Linear"
        warnings.warn(f"convert_to_fp8_training converted nothing: {reasons}", stacklevel=3)


def linear_state_dict(model: nn.Module) -> dict[str, Any]:
    """The model's state_dict without FP8 scaling state: loads with strict=True into the model as it was before conversion.

    Example:
        >>> from torch import nn
        >>> import mpkernels as mp
        >>> layer = mp.Fp8Linear(128, 128, recipe=mp.DelayedScaling())
        >>> nn.Linear(128, 128).load_state_dict(mp.linear_state_dict(layer))
        <All keys matched successfully>
    """
    states = [name for name, module in model.named_modules() if isinstance(module, DelayedScalingState)]
    prefixes = tuple(f"{name}." if name else "" for name in states)
    state: dict[str, Tensor] = model.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(prefixes)} if prefixes else state
