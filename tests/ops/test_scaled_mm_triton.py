"""scaled_mm's Triton kernels on tensor cores that keep few bits of a sum."""

from __future__ import annotations

import emulated_triton
import pytest
import torch

if (WHY_NOT := emulated_triton.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from test_scaled_mm import assert_is_product, exact_value, random_fp8

import mpkernels as mp
from mpkernels import triton_launch
from mpkernels.formats import E4M3
from mpkernels.testing import tensor_core_of, to_float64


@pytest.mark.parametrize(("target", "model"), [("sm_89", "ada"), ("sm_90", "hopper")])
def test_promotion_keeps_what_the_tensor_cores_lose(target, model):
    M, N, K = 16, 64, 4096
    a, b = random_fp8(M, K, dtype=E4M3.dtype, seed=5), random_fp8(N, K, dtype=E4M3.dtype, seed=6)
    one = torch.ones(())
    expected, _ = exact_value(a, b, one, one)
    error = {}
    for fast in (True, False):
        launcher = emulated_triton.launcher(target, lambda tensor: False, 0)
        launcher.numerics = model
        with triton_launch.using(launcher):
            result = mp.scaled_mm(a, b, one, one, out_dtype=torch.float32, use_fast_accum=fast, backend="triton")
        assert_is_product(result, a, b, one, one, core=tensor_core_of(launcher.arch), fast=fast)
        error[fast] = (to_float64(result) - expected).square().mean().sqrt()
    assert error[True] > 2 * error[False]
