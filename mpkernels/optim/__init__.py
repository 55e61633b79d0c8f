"""Optimizers with torch.optim's interface that keep FP32 masters of low-precision parameters and update them in one pass."""

from .adamw import AdamW
from .sgd import SGD

__all__ = ["SGD", "AdamW"]
