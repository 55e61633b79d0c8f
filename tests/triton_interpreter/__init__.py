"""Triton's interpreter, repaired and with checks, as a launcher: `interpreted` runs the ops' kernels line by line on the CPU.

Python must have been started with TRITON_INTERPRET=1: Triton decides when it is imported.
"""
