"""FP8, BF16 and FP16 training kernels for PyTorch: see README.md for the ten-line start."""

from . import formats
from .dispatch import BackendUnavailable, explain
from .ops.adamw_update import adamw_update_
from .ops.amax import amax
from .ops.sgd_update import sgd_update_

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "adamw_update_",
    "amax",
    "explain",
    "formats",
    "sgd_update_",
]
