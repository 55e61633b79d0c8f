"""update_loss_scale_ against torch's update without hysteresis: three scalars, so this is the cost of a call."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case, Setup
from ..peers import BARE, bare_custom_op
from ..shapes import Shape


def case(setup: Setup, shape: Shape) -> Case:
    loss_scale, found_inf = setup.scalar(65536.0), setup.scalar(0.0)
    growth, patience = setup.scalar(0, torch.int32), setup.scalar(1, torch.int32)
    return Case(
        name="three scalars",
        shape=shape,
        ours=lambda backend: mp.update_loss_scale_(loss_scale, growth, patience, found_inf, 2.0, 0.5, 2000, 1, backend=backend),
        peers={
            "torch._amp_update_scale_": lambda: torch._amp_update_scale_(loss_scale, growth, found_inf, 2.0, 0.5, 2000),
            BARE: bare_custom_op(loss_scale),
        },
    )


def cases(setup: Setup) -> Iterator[Case]:
    for shape in setup.tiny(3):
        yield case(setup, shape)
