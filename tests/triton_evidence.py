"""What is known of the Triton kernels without a GPU: python tests/triton_evidence.py writes its half of docs/gpu-evidence.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import emulated_triton
import torch
import triton
from assembled_triton import ARCHITECTURES, assemble
from gpu_evidence import OF_TRITON, PAGE, Case, Counts, half, rows_of, summed
from ptx_emulator import Policy

import mpkernels as mp
from mpkernels import triton_launch

TARGETS = tuple(emulated_triton.TARGETS)
E4M3 = torch.float8_e4m3fn
ROWS, COLUMNS = 256, 512
CHUNK = 1 << 14  # mpkernels.triton_tables
Call = Callable[[], Any]


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def quantized(dtype: torch.dtype, transpose: bool) -> tuple[Case, Call]:
    x, name = values(ROWS, COLUMNS, dtype=dtype), f"{str(dtype).removeprefix('torch.')} -> E4M3, q{' and q_t' * transpose}"
    case = Case("quantize", name, (), x.numel(), x.nbytes + (1 + transpose) * x.numel())
    return case, lambda: mp.quantize(x, torch.tensor(3.0), E4M3, transpose=transpose, backend="triton")


def listed() -> list[tuple[Case, Call]]:
    """Lists of two tensors of whole chunks."""
    one, found = torch.ones(()), torch.zeros(())
    n = 2 * CHUNK

    def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        return [values(CHUNK, dtype=dtype).abs() for _ in range(2)]

    low = torch.bfloat16
    rest = {"inv_loss_scale": one, "found_inf": found, "backend": "triton"}
    steps = [torch.zeros(()) for _ in range(2)]
    amaxes = {"param_amaxes": list(torch.zeros(2).unbind())}
    adamw = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, **rest}
    sgd = {"lr": 1e-3, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False, **rest}
    args = tensors(low), one, found
    return [
        (Case("unscale_and_check_", "bf16", (), n, 4 * n), lambda: mp.unscale_and_check_(*args, backend="triton")),
        (Case("grad_norm_and_check", "bf16", (), n, 2 * n), lambda: mp.grad_norm_and_check(*args, backend="triton")),
        (
            Case("adamw_update_", "bf16 gradients and copy", (), n, 28 * n),
            lambda: mp.adamw_update_(tensors(), tensors(), tensors(), steps, tensors(low), tensors(low), **adamw),
        ),
        (
            Case("adamw_update_", "bf16 gradients and copy, amaxes", (), n, 28 * n),
            lambda: mp.adamw_update_(tensors(), tensors(), tensors(), steps, tensors(low), tensors(low), **adamw, **amaxes),
        ),
        (
            Case("sgd_update_", "momentum, bf16 gradients and copy", (), n, 20 * n),
            lambda: mp.sgd_update_(tensors(), tensors(), steps, tensors(low), tensors(low), **sgd),
        ),
        (
            Case("sgd_update_", "momentum, bf16 gradients and copy, amaxes", (), n, 20 * n),
            lambda: mp.sgd_update_(tensors(), tensors(), steps, tensors(low), tensors(low), **sgd, **amaxes),
        ),
    ]


def cases() -> list[tuple[Case, Call]]:
    x = values(ROWS, COLUMNS, dtype=torch.bfloat16)
    current = Case("quantize_current", "bf16 -> E4M3, q and q_t", (), x.numel(), 2 * x.nbytes + 2 * x.numel())
    return [
        (Case("amax", "bf16", (), x.numel(), x.nbytes), lambda: mp.amax(x, backend="triton")),
        quantized(torch.bfloat16, False),
        quantized(torch.bfloat16, True),
        quantized(torch.float32, True),
        (current, lambda: mp.quantize_current(x, E4M3, transpose=True, backend="triton")),
        *listed(),
    ]


def count(case: Case, call: Call, target: str) -> Counts:
    launcher = emulated_triton.launcher(target, lambda tensor: False, 0, Policy())
    with triton_launch.using(launcher):
        call()
    return summed(case, launcher.kernels, launcher.results)


def static_table() -> list[str]:
    made = {target: assemble(target) for target in ARCHITECTURES}
    rows = [f"| call | kernel | warps | {' | '.join(ARCHITECTURES)} |", "|" + "---|" * (3 + len(ARCHITECTURES))]
    for several in zip(*made.values(), strict=True):
        first = several[0]
        kernels = {each.kernel for each in several}
        warps = sorted({each.warps for each in several})
        cells = [f"{each.registers}, {each.shared}" + f", **{each.spilled} spilled**" * (each.spilled > 0) for each in several]
        name = ", ".join(f"`{kernel}`" for kernel in sorted(kernels))
        rows.append(f"| {first.case} | {name} | {', '.join(map(str, warps))} | {' | '.join(cells)} |")
    return rows


def page() -> str:
    return "\n".join(
        [
            OF_TRITON,
            "",
            f"Made by `make gpu-evidence` with Triton {triton.__version__}; a test fails if it is stale.",
            "Nothing here was measured on a GPU.",
            "",
            "## Resources of the Triton kernels",
            "",
            "Every launch of the calls in `tests/assembled_triton.py`, compiled for each target: registers a thread, bytes of",
            "shared memory. The instructions that must and must not be in them are listed in `tests/test_triton_kernels.py`.",
            "",
            *static_table(),
            "",
            "## Counts of the Triton kernels",
            "",
            f"As above, on {', '.join(TARGETS)}. *Conflicts* are those of reductions across warps and of transposes.",
            "",
            *rows_of((case, [count(case, call, target) for target in TARGETS]) for case, call in cases()),
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(half(of_triton=False) + page())
    sys.exit(0)
