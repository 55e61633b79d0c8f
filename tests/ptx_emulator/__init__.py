"""A functional emulator of PTX on the CPU, in NumPy, that watches every access. See README.md."""

from .api import EVERY_POLICY, Buffer, Kernel, KernelFault, Module, Policy, PTXError, Result, Struct, launch, load
from .tensor_map import TensorMap

__all__ = [
    "EVERY_POLICY",
    "Buffer",
    "Kernel",
    "KernelFault",
    "Module",
    "PTXError",
    "Policy",
    "Result",
    "Struct",
    "TensorMap",
    "launch",
    "load",
]
