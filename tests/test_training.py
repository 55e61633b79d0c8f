"""Training with each recipe reaches the loss of FP32 training: the one test that nothing else can stand in for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mpkernels as mp

STEPS, BATCH, INPUTS, WIDTH = 150, 256, 8, 128


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), Residual(), Residual(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8))


def batches():
    """Inputs and targets of a fixed random teacher, which a linear student could not follow."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(INPUTS, 32, generator=generator) / INPUTS**0.5
    readout = torch.randn(32, 8, generator=generator) / 32**0.5
    for _ in range(STEPS):
        x = torch.randn(BATCH, INPUTS, generator=generator)
        yield x, torch.sin(1.5 * (x @ directions)) @ readout


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, dtype: torch.dtype) -> float:
    """Mean loss of the last 20 steps."""
    losses = []
    for x, y in batches():
        out = model(x.to(dtype))
        loss = (out.float() - y).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses[-20:]).mean().item()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is too small for two, and barriers between them stall on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def untrained_loss() -> float:
    return torch.stack([y.square().mean() for _, y in batches()]).mean().item()


@pytest.fixture(scope="module")
def fp32_loss(untrained_loss) -> float:
    model = student()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = train(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), torch.float32)
    assert loss < 0.1 * untrained_loss
    return loss


def falls_behind(loss: float, fp32_loss: float, untrained_loss: float) -> bool:
    """Whether more than 1 % of what FP32 training learns is lost."""
    return untrained_loss - loss < 0.99 * (untrained_loss - fp32_loss)


@pytest.mark.parametrize(
    ("dtype", "recipe", "loss_scaling"),
    [
        (torch.bfloat16, None, False),
        (torch.float16, None, True),
        (torch.bfloat16, mp.Float8CurrentScaling(), False),
        (torch.bfloat16, mp.DelayedScaling(amax_history_len=16), False),
        (torch.float16, mp.Float8CurrentScaling(power_of_two_scales=True), True),
        (torch.float32, mp.Float8CurrentScaling(), False),
    ],
    ids=["bf16", "fp16 scaled", "fp8 current", "fp8 delayed", "fp8 in fp16 scaled", "fp8 in fp32"],
)
def test_reaches_the_loss_of_fp32(fp32_loss, untrained_loss, dtype, recipe, loss_scaling):
    model = copy.deepcopy(student()).to(dtype)
    if recipe is not None:
        mp.convert_to_fp8_training(model, recipe=recipe)
        assert sum(isinstance(m, mp.Fp8Linear) for m in model.modules()) == 4
    optimizer = mp.optim.AdamW(model.parameters(), lr=3e-3, max_grad_norm=10.0)
    loss = train(model, optimizer, mp.GradScaler("cpu", enabled=loss_scaling, init_scale=2.0**12), dtype)
    assert not falls_behind(loss, fp32_loss, untrained_loss), f"{loss} against {fp32_loss} in FP32"


def test_a_recipe_that_loses_values_falls_behind(fp32_loss, untrained_loss):
    """The check can fail: with this margin everything underflows, and the converted layers pass nothing on."""
    model = mp.convert_to_fp8_training(student().bfloat16(), recipe=mp.Float8CurrentScaling(margin=24))
    optimizer = mp.optim.AdamW(model.parameters(), lr=3e-3, max_grad_norm=10.0)
    loss = train(model, optimizer, mp.GradScaler("cpu", enabled=False), torch.bfloat16)
    assert falls_behind(loss, fp32_loss, untrained_loss)
