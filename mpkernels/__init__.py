"""FP8, BF16 and FP16 training kernels for PyTorch: see README.md for the ten-line start."""

from . import formats
from .dispatch import BackendUnavailable, explain
from .ops.amax import amax
from .ops.compute_scale import compute_scale
from .ops.quantize import quantize
from .ops.quantize_current import quantize_current

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "amax",
    "compute_scale",
    "explain",
    "formats",
    "quantize",
    "quantize_current",
]
