"""update_loss_scale_ against torch's update without hysteresis: three scalars, so this is the cost of a call."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import mpkernels as mp

from ..cases import Case


def cases() -> Iterator[Case]:
    loss_scale, found_inf = torch.tensor(65536.0), torch.tensor(0.0)
    growth, patience = torch.tensor(0, dtype=torch.int32), torch.tensor(1, dtype=torch.int32)
    yield Case(
        name="update_loss_scale_",
        ours=lambda: mp.update_loss_scale_(loss_scale, growth, patience, found_inf, 2.0, 0.5, 2000, 1),
        peer=lambda: torch._amp_update_scale_(loss_scale, growth, found_inf, 2.0, 0.5, 2000),
        peer_name="torch._amp_update_scale_",
        bytes_moved=28,
    )
