"""FP16 matrix products on CPUs that have no instructions for them.

Without AVX512-FP16 or AMX-FP16 torch multiplies FP16 matrices element by element: 1 to 45 GFLOP/s where FP32 does 200, which
is 25 s for one step of this demo's model. Here they are computed in FP32 and rounded to FP16: what a tensor core does with
FP16 operands and an FP32 accumulator, overflow to Inf included, so training goes as it would on a GPU. Its speed on such a CPU
says nothing about FP16 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


class ProductsInFp32(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS and args[0].dtype is torch.float16:
            return func(*(a.float() if isinstance(a, torch.Tensor) else a for a in args), **(kwargs or {})).half()
        return func(*args, **(kwargs or {}))


def is_needed(device: torch.device, dtype: torch.dtype | None) -> bool:
    has_fp16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return device.type == "cpu" and dtype is torch.float16 and not has_fp16


def products_of(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Enter it around forward and backward."""
    return ProductsInFp32() if is_needed(device, dtype) else nullcontext()
