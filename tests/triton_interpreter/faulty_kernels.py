"""Each check finds what it is for, and conversions round. Run by test_interpreter.py in a process that interprets."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from mpkernels.triton_launch import Launch

from .launcher import InterpretedLauncher


def launch(kernel, grid, *args, behind=(), **constants):
    InterpretedLauncher(0).launch(Launch(kernel, (grid, 1, 1), args, constants, {}, behind))


@triton.jit
def copy(x, y, n, BLOCK: tl.constexpr, HINT: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(tl.multiple_of(y, HINT) + at, tl.load(x + at, mask=at < n), mask=at < n)


@triton.jit
def overlapping(y, BLOCK: tl.constexpr):
    tl.store(y + tl.program_id(0) + tl.arange(0, BLOCK), tl.program_id(0))


@triton.jit
def through_table(rows, BLOCK: tl.constexpr):
    tl.store(tl.load(rows).to(tl.pointer_type(tl.float32)) + tl.arange(0, BLOCK), 1.0)


def test_a_good_launch_passes_and_bf16_rounds_to_nearest_even():
    x = torch.randn(100)
    y = torch.zeros(100, dtype=torch.bfloat16)
    launch(copy, 4, x, y, 100, BLOCK=32, HINT=16)
    np.testing.assert_array_equal(y.view(torch.uint16).numpy(), x.numpy().astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("reach", [101, 128])
def test_reading_or_writing_past_the_end(reach):
    with pytest.raises(InterpreterError, match="load outside of the tensors"):
        launch(copy, 4, torch.zeros(100), torch.zeros(128), reach, BLOCK=32, HINT=1)
    with pytest.raises(InterpreterError, match="store outside of the tensors"):
        launch(copy, 4, torch.zeros(128), torch.zeros(100), reach, BLOCK=32, HINT=1)


def test_a_false_hint():
    with pytest.raises(InterpreterError, match="false hint"):
        launch(copy, 3, torch.zeros(100), torch.zeros(101)[1:], 96, BLOCK=32, HINT=16)


def test_programs_that_write_over_each_other():
    with pytest.raises(AssertionError, match="different values by different programs"):
        launch(overlapping, 2, torch.zeros(40, dtype=torch.int32), BLOCK=32)


def test_memory_behind_a_table_must_be_named():
    y = torch.zeros(32)
    rows = torch.tensor([y.data_ptr()])
    with pytest.raises(InterpreterError, match="store outside of the tensors"):
        launch(through_table, 1, rows, BLOCK=32)
    launch(through_table, 1, rows, behind=[y], BLOCK=32)
    assert (y == 1).all()
