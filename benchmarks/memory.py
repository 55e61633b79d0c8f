"""Bytes a parameter and bytes an activation of each way to train: python -m benchmarks.memory [--json FILE].

Ours and torch's are counted: one linear layer takes a step on the CPU, and the storages that are alive are added up, each once:
the parameter, its gradient, the tensors in the optimizer's state, and what autograd saves for backward. Beside each count stands
the formula it must equal (tests/test_training_benchmarks.py compares them). Peers that are not at hand have the formula alone,
with the source it was read from. Not counted, on either side: scales, step counters and amax histories, which do not grow with
the layer; and what is alive only within a step beyond what backward needs (benchmarks.train measures the peak).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import mpkernels as mp
from examples.lm import measure

from .training.variants import VARIANTS, Training

TOKENS, FEATURES_IN, FEATURES_OUT = 96, 256, 384  # all different, so that a saved tensor's size tells whose it is


@dataclass(frozen=True)
class Bytes:
    """Of one parameter of a linear layer; `activation` of one value of its input, saved for backward.

    weight_copies: made in the forward pass and kept until backward, of autocast or in FP8.
    """

    weights: float
    gradients: float
    masters: float
    moments: float
    weight_copies: float
    activation: float

    @property
    def state(self) -> float:
        """What is there from step to step, gradients included."""
        return self.weights + self.gradients + self.masters + self.moments

    @property
    def formula(self) -> str:
        parts = (("w", self.weights), ("g", self.gradients), ("master", self.masters), ("m, v", self.moments))
        return " + ".join(f"{size:g} {name}" for name, size in parts if size)


@dataclass(frozen=True)
class Recipe:
    """One row. `variant` names the variant of benchmarks.train that is counted; None: by formula, from `source`."""

    name: str
    formula: Bytes
    variant: str | None = None
    source: str = ""


AO = "torchao/float8/float8_linear.py: saves input_hp and weight_hp_t"
TE = "transformer_engine/pytorch/module/linear.py: the weight row- and columnwise, of the input only columnwise (Hopper)"
APEX = "apex/amp/_process_optimizer.py"
RECIPES = (
    Recipe("FP32, torch AdamW", Bytes(4, 4, 0, 8, 0, 4), "fp32 torch"),
    Recipe("FP32, mpkernels AdamW", Bytes(4, 4, 0, 8, 0, 4), "fp32 mpkernels"),
    Recipe("BF16 autocast, torch AdamW", Bytes(4, 4, 0, 8, 2, 2), "bf16 torch"),
    Recipe("FP16 autocast, torch AdamW and GradScaler", Bytes(4, 4, 0, 8, 2, 2), "fp16 torch"),
    Recipe("BF16 weights, mpkernels masters", Bytes(2, 2, 4, 8, 0, 2), "bf16 mpkernels"),
    Recipe("FP16 weights, mpkernels masters and GradScaler", Bytes(2, 2, 4, 8, 0, 2), "fp16 mpkernels"),
    Recipe("FP8 current scaling, mpkernels", Bytes(2, 2, 4, 8, 1, 1), "fp8 current mpkernels"),
    Recipe("FP8 delayed scaling, mpkernels", Bytes(2, 2, 4, 8, 1, 1), "fp8 delayed mpkernels"),
    Recipe("apex O2, FusedAdam", Bytes(2, 2, 4, 8, 0, 2), source=f"{APEX}: FP32 masters, gradients stay FP16"),
    Recipe("apex O2, torch Adam", Bytes(2, 6, 4, 8, 0, 2), source=f"{APEX}: FP32 masters, and FP32 gradients of them"),
    Recipe(
        "apex FusedAdam(capturable, master_weights)",
        Bytes(2, 2, 4, 8, 0, 2),
        source="apex/optimizers/fused_adam.py: FP16 weights only, apex#1728",
    ),
    Recipe("torchao float8 tensorwise, autocast", Bytes(4, 4, 0, 8, 0, 2), source=AO),
    Recipe("TransformerEngine FP8, FusedAdam(master_weights)", Bytes(2, 2, 4, 8, 2, 1), source=TE),
    Recipe(
        "TransformerEngine FP8, weights cached over micro-batches",
        Bytes(4, 2, 4, 8, 0, 1),
        source=f"{TE}; is_first_microbatch keeps both copies in a workspace",
    ),
    Recipe(
        "TransformerEngine FP8 primary weights",
        Bytes(2, 2, 4, 8, 0, 1),
        source="quantized_model_init: FP8 row- and columnwise instead of BF16 weights; FusedAdam(master_weights)",
    ),
)


def count(variant_name: str) -> Bytes:
    """What one linear layer keeps after forward and backward, when its optimizer has taken a step before."""
    variant = next(variant for variant in VARIANTS if variant.name == variant_name)
    torch.manual_seed(0)
    training = Training(variant, _Model(), torch.device("cpu"))
    x = torch.randn(TOKENS, FEATURES_IN)
    training.step((x,))
    with measure.saved_by([training.model.layer]) as saved:
        training.forward_backward((x,))
    parameter = training.model.layer.weight
    state = training.optimizer.state[parameter]
    masters, moments = [state["master"]] if "master" in state else [], [state["exp_avg"], state["exp_avg_sq"]]
    own = parameter.untyped_storage().data_ptr()
    kept = {t.untyped_storage().data_ptr(): t for t in saved if t.untyped_storage().data_ptr() != own}.values()

    def bytes_of(tensors: Callable[[Tensor], bool] | list[Tensor], elements: int) -> float:
        chosen = list(filter(tensors, kept)) if callable(tensors) else tensors
        return sum(t.untyped_storage().nbytes() for t in chosen) / elements

    return Bytes(
        weights=bytes_of([parameter], parameter.numel()),
        gradients=bytes_of([parameter.grad], parameter.numel()),
        masters=bytes_of(masters, parameter.numel()),
        moments=bytes_of(moments, parameter.numel()),
        weight_copies=bytes_of(lambda t: t.numel() == parameter.numel(), parameter.numel()),
        activation=bytes_of(lambda t: t.numel() == x.numel(), x.numel()),
    )


class _Model(nn.Module):
    """One layer, whose input needs a gradient as it does inside a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES_IN, FEATURES_OUT, bias=False)

    def loss(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype).requires_grad_()).float().square().mean()


def rows() -> list[dict[str, object]]:
    """The table: formula and, where it can be had, the count."""
    return [
        {
            "recipe": recipe.name,
            "formula": asdict(recipe.formula),
            "counted": asdict(count(recipe.variant)) if recipe.variant is not None else None,
            "source": recipe.source,
        }
        for recipe in RECIPES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--json", type=Path, help="store the table in this file")
    options = parser.parse_args()
    found = rows()
    for row in found:
        shown = Bytes(**(row["counted"] or row["formula"]))
        how = "counted" if row["counted"] else "formula"
        print(f"{row['recipe']:58} {shown.state:5.1f} B/param (+{shown.weight_copies:g}) {shown.activation:g} B/act  {how}")
    if options.json is not None:
        options.json.write_text(json.dumps({"mpkernels": mp.__version__, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
