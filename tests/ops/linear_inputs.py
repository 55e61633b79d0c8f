"""Tensors, scaling state and the definition of an operand for the tests of linear_forward and linear_backward."""

from __future__ import annotations

import torch

import mpkernels as mp


def randn(*size, dtype=torch.float32, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def state(history=(0.5, 2.0), quant_scale=64.0):
    """Of a tensor under delayed scaling."""
    return [torch.tensor(history), torch.tensor(quant_scale), torch.tensor(1 / quant_scale)]


def quantized(x, dtype, scaling, backend, *, calibrated, record, margin=0, power_of_two=False):
    """(q, q_t, dequant_scale) by the public ops, which writes to scaling as the contract says."""
    if scaling and calibrated:
        q, q_t, amax = mp.quantize(x, scaling[1], dtype, transpose=True, backend=backend)
        quant_scale, dequant_scale = scaling[1].clone(), scaling[2].clone()
    else:
        found = mp.quantize_current(x, dtype, margin=margin, power_of_two=power_of_two, transpose=True, backend=backend)
        q, q_t, amax, quant_scale, dequant_scale = found
    if scaling and record:
        scaling[0][0] = torch.fmax(scaling[0][0], amax)
        scaling[1].copy_(quant_scale)
        scaling[2].copy_(dequant_scale)
    return q, q_t, dequant_scale
