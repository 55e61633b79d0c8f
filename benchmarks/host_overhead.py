"""Where the host's time goes in one Fp8Linear forward + backward with no work to do: python -m benchmarks.host_overhead

Each line is a call that holds the one above it, measured on its own, all of them in turn; the second column is what it adds. Of
the backward pass torch's part (`Tensor.backward`, the engine, the accumulation of three gradients) is measured with a function
that computes nothing. The bar is 60 us for forward and backward (benchmarks/layers/bench_fp8_linear.py).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

import mpkernels as mp
from mpkernels.ops.linear_backward import cpu as backward_cpu
from mpkernels.ops.linear_backward import op as linear_backward
from mpkernels.ops.linear_forward import cpu as forward_cpu
from mpkernels.ops.linear_forward import op as linear_forward

from .timing import Call, OnCpu, Timing, interleaved

SIZE = 16
BF16, E4M3, E5M2 = torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2


class Nothing(torch.autograd.Function):
    """A layer that computes nothing: what torch's autograd costs for one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.empty_like, ctx.saved_tensors))


def calls(recipe: mp.recipes.Recipe) -> dict[str, dict[str, Call]]:
    """Group -> name -> call. Within a group a call holds the one before it."""
    x = torch.randn(SIZE, SIZE, dtype=BF16, requires_grad=True)
    grad = torch.randn(SIZE, SIZE, dtype=BF16)
    layer, linear = mp.Fp8Linear(SIZE, SIZE, dtype=BF16, recipe=recipe), nn.Linear(SIZE, SIZE, dtype=BF16)
    for _ in range(3):  # past the first step of a history
        layer(x).backward(grad)
    slot = layer.scaling.slot if layer.scaling is not None else lambda _: []
    weight, bias = layer.weight.detach(), layer.bias.detach()
    how = (layer.scaling is not None, layer.scaling is not None)
    forward = (x.detach(), weight, bias, slot("input"), slot("weight"), *how, E4M3, 0, False, True, True, BF16, True)
    out, *kept = linear_forward.torch_op(*forward)
    backward = (grad, *kept, slot("grad_output"), *how, E5M2, 0, False, BF16, BF16, False, False)
    grads = linear_backward.outputs(*backward)
    return {
        "forward": {
            "the CPU backend on given outputs": lambda: forward_cpu.run(out, *kept, *forward),
            "the op linear_forward": lambda: linear_forward.call(*forward, backend=None),
            "fp8_linear without gradients": lambda: mp.fp8_linear(x.detach(), weight, bias, recipe=recipe, scaling=layer.scaling),
            "fp8_linear": lambda: mp.fp8_linear(x, layer.weight, layer.bias, recipe=recipe, scaling=layer.scaling),
            "Fp8Linear": lambda: layer(x),
        },
        "backward": {
            "the CPU backend on given outputs": lambda: backward_cpu.run(*grads, *backward),
            "the op linear_backward": lambda: linear_backward.call(*backward, backend=None),
        },
        "both": {
            "torch's autograd alone": lambda: Nothing.apply(x, layer.weight, layer.bias).backward(grad),
            "nn.Linear": lambda: linear(x).backward(grad),
            "Fp8Linear forward + backward": lambda: layer(x).backward(grad),
        },
        "not taken": {  # for comparison: what op.call saves
            "linear_forward through torch's dispatcher": lambda: linear_forward.torch_op(*forward),
            "linear_backward through torch's dispatcher": lambda: linear_backward.torch_op(*backward),
        },
    }


def text(groups: dict[str, dict[str, Call]], timings: dict[str, Timing]) -> str:
    """A table: microseconds of each call, and what it adds to the one before it in its group."""
    lines = []
    for group, members in groups.items():
        before = 0.0
        for name in members:
            us = timings[f"{group}: {name}"].median * 1e6
            lines.append(f"{group:10} {name:44} {us:8.1f} us {us - before:+8.1f}")
            before = us if group in ("forward", "backward") else 0.0
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_overhead", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each recipe; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, recipe in (("current", mp.Float8CurrentScaling()), ("delayed", mp.DelayedScaling())):
        groups = calls(recipe)
        flat = {f"{group}: {member}": call for group, members in groups.items() for member, call in members.items()}
        print(f"{name} scaling, {SIZE} x {SIZE} x {SIZE}\n{text(groups, interleaved(flat, OnCpu(), seconds=options.seconds))}\n")


if __name__ == "__main__":
    main()
