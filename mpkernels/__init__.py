"""FP8, BF16 and FP16 training kernels for PyTorch: see README.md for the ten-line start."""

from . import formats, optim, testing
from .convert import convert_to_fp8_training, linear_state_dict
from .dispatch import BackendUnavailable, explain
from .grad_scaler import GradScaler
from .linear import Fp8Linear, fp8_linear
from .ops.adamw_update import adamw_update_
from .ops.amax import amax
from .ops.compute_scale import compute_scale
from .ops.grad_norm_and_check import grad_norm_and_check
from .ops.linear_backward import linear_backward
from .ops.linear_forward import linear_forward
from .ops.quantize import quantize
from .ops.quantize_current import quantize_current
from .ops.scaled_mm import scaled_mm
from .ops.sgd_update import sgd_update_
from .ops.unscale_and_check import unscale_and_check_
from .ops.update_delayed_scales import update_delayed_scales_
from .ops.update_loss_scale import update_loss_scale_
from .recipes import DelayedScaling, Float8CurrentScaling, Format
from .scaling import DelayedScalingState
from .tuning import tune

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "DelayedScaling",
    "DelayedScalingState",
    "Float8CurrentScaling",
    "Format",
    "Fp8Linear",
    "GradScaler",
    "adamw_update_",
    "amax",
    "compute_scale",
    "convert_to_fp8_training",
    "explain",
    "formats",
    "fp8_linear",
    "grad_norm_and_check",
    "linear_backward",
    "linear_forward",
    "linear_state_dict",
    "optim",
    "quantize",
    "quantize_current",
    "scaled_mm",
    "sgd_update_",
    "testing",
    "tune",
    "unscale_and_check_",
    "update_delayed_scales_",
    "update_loss_scale_",
]
