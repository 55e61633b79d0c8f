"""FP8, BF16 and FP16 training kernels for PyTorch: see README.md for the ten-line start."""

from . import formats
from .dispatch import BackendUnavailable, explain
from .ops.amax import amax
from .ops.scaled_mm import scaled_mm

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "amax",
    "explain",
    "formats",
    "scaled_mm",
]
