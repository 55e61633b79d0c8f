"""FP8, BF16 and FP16 training kernels for PyTorch: see README.md for the ten-line start."""

from . import formats
from .dispatch import BackendUnavailable, explain
from .grad_scaler import GradScaler
from .ops.amax import amax
from .ops.grad_norm_and_check import grad_norm_and_check
from .ops.unscale_and_check import unscale_and_check_
from .ops.update_loss_scale import update_loss_scale_

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "GradScaler",
    "amax",
    "explain",
    "formats",
    "grad_norm_and_check",
    "unscale_and_check_",
    "update_loss_scale_",
]
