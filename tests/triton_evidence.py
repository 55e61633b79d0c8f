"""What is known of the Triton kernels without a GPU: python tests/triton_evidence.py writes its half of docs/gpu-evidence.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import emulated_triton
import torch
import triton
from assembled import MATRIX
from assembled_triton import ARCHITECTURES, assemble
from evidence.scaled_mm import moved
from gpu_evidence import OF_TRITON, PAGE, Case, Counts, half, rows_of, summed, table
from ptx_emulator import Policy, Result

import mpkernels as mp
from mpkernels import triton_launch
from mpkernels.ops.scaled_mm import triton as scaled_mm

TARGETS = tuple(emulated_triton.TARGETS)
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
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


PRODUCTS = {"scaled_mm 16 rows": (16, False), "scaled_mm 512 rows": (128, False), "scaled_mm 512 rows, fast": (128, True)}
PRODUCT_COLUMNS = ("call", "tile", "main loop: instructions", "of these", "for each product", "bytes ratio", "conflicts")
DEPTH = 512  # of K


def product_rows() -> Iterator[list[str]]:
    """Calls of assembled_triton.py: their compiled code, and one tile in the emulator. A row for each configuration."""
    for target in TARGETS:
        seen = set()
        for made in (each for each in assemble(target) if each.case in PRODUCTS):
            (config, M, N), result = one_tile(target, *PRODUCTS[made.case])
            if config in seen:
                continue
            seen.add(config)
            loop, counters = made.loop, result.counters
            matrix = next(code for code in loop if MATRIX.match(code))
            compulsory = (M + N) * DEPTH + M * N * BF16.itemsize
            yield [
                f"{target}: {made.case.removeprefix('scaled_mm ')}",
                f"{config.block_m} x {config.block_n}",
                str(loop["total"]),
                f"{loop[matrix]} {matrix}, {loop.get('FADD', 0)} FADD",
                f"{loop['total'] / loop[matrix]:.1f}",
                f"{moved(result) / compulsory:.2f}",
                str(counters["shared_load_conflicts"] + counters["shared_store_conflicts"]),
            ]


def one_tile(target: str, rows: int, fast: bool) -> tuple[tuple[scaled_mm.Config, int, int], Result]:
    """((configuration, M, N), what its launch did)"""
    launcher = emulated_triton.launcher(target, lambda tensor: False, 0, Policy())
    config = scaled_mm.config_for(launcher.target(torch.device("cpu")), rows, 512, DEPTH, fast)
    M, N = min(config.block_m, rows), config.block_n
    a, b = values(M, DEPTH, dtype=E4M3), values(N, DEPTH, dtype=E4M3)
    with triton_launch.using(launcher):
        mp.scaled_mm(a, b, torch.ones(()), torch.ones(()), use_fast_accum=fast, backend="triton")
    (result,) = launcher.results
    return (config, M, N), result


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
            "## Matrix products of the Triton kernels",
            "",
            "The main loop is the innermost one with matrix instructions (*products*). *Bytes ratio*, *conflicts*: of one tile",
            f"and {DEPTH} of K, as under Counts. Calls whose configuration is that of an earlier one are left out.",
            "",
            *table(PRODUCT_COLUMNS, product_rows()),
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
