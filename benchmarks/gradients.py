"""Gradients to measure on."""

from __future__ import annotations

import torch


def transformer_gradients(dtype: torch.dtype, *, layers: int = 10, width: int = 512) -> list[torch.Tensor]:
    """33 M elements in 62 tensors: embedding, head, and per layer the weights and norms of attention and MLP."""
    shapes = [(1024, width), (1024, width)]
    for _ in range(layers):
        shapes += [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (width,), (width,)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
