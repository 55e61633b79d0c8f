"""Fp8Linear against nn.Linear in bfloat16 and peers' FP8 layers: with no work to do (host overhead), and on training shapes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op, step_of, torchao_float8, transformer_engine_linear
from ..shapes import Shape

RECIPES = {"current": mp.Float8CurrentScaling(), "delayed": mp.DelayedScaling()}
PEER = "nn.Linear in bfloat16"


def case(setup: Setup, shape: Shape, recipe: str, backward: bool) -> Case:
    M, N, K = shape.size
    x = setup.random(M, K, dtype=torch.bfloat16).requires_grad_()
    grad = setup.random(M, N, dtype=torch.bfloat16) if backward else None
    how = {"dtype": torch.bfloat16, "device": setup.device}
    ours = step_of(mp.Fp8Linear(K, N, **how, recipe=RECIPES[recipe]), x, grad)
    tiny = shape.family == "tiny"
    both = tiny and backward and recipe == "current"
    return Case(
        name=f"{recipe} {'forward + backward' if backward else 'forward'} {shape}".replace(", forward", ""),
        shape=shape,
        ours=lambda _: ours(),
        peers={PEER: step_of(torch.nn.Linear(K, N, **how), x, grad), **({BARE: bare_custom_op(x)} if tiny else {})},
        more_peers={
            "torchao Float8Linear, eager": lambda: torchao_float8(K, N, x, grad),
            "TransformerEngine Linear": lambda: transformer_engine_linear(K, N, x, grad, RECIPES[recipe]),
        },
        bars={PEER: 0.2} if both else {},
        at_most_us=60 if both else None,
        flops=0 if tiny else (2 + 4 * backward) * M * N * K,
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in setup.tiny(16, 16, 16):
        for recipe in RECIPES:
            for backward in (False, True):
                yield case(setup, shape, recipe, backward)
    for shape in setup.products():
        if shape.direction == "forward" or shape.family == "square":
            for recipe in RECIPES:
                yield case(setup, shape, recipe, backward=True)
