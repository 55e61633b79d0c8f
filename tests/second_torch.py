"""Loads the built package under whichever torch runs this file, and trains a step: see test_second_torch.py."""

from __future__ import annotations

import torch

import mpkernels as mp
from mpkernels import native
from mpkernels.dispatch import OPS


def main() -> None:
    assert native.cpu_missing is None, native.cpu_missing
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.GELU(), torch.nn.Linear(256, 128)).bfloat16()
    mp.convert_to_fp8_training(model)
    optimizer = mp.optim.AdamW(model.parameters(), lr=1e-2, max_grad_norm=1.0)
    scaler = mp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(64, 128, dtype=torch.bfloat16)
    losses = []
    for _ in range(20):
        loss = (model(x) - x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    for name in ("amax", "quantize", "adamw_update_"):
        op = OPS[name]
        torch.library.opcheck(op.torch_op, op.bind(*op.example(torch.device("cpu"))))
    print(f"torch {torch.__version__}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
