"""scaled_mm's CUDA kernels beside what Triton compiles for the same tiles, by the same counters, ptxas and disassembler."""

from __future__ import annotations

from functools import partial

import assembled
import emulated
import pytest
import torch
from evidence.scaled_mm import ada_beside_triton, hopper_beside_triton

pytest.importorskip("triton")
if (WHY_NOT := assembled.why_not() or emulated.why_not()) is not None:
    pytest.skip(WHY_NOT, allow_module_level=True)

PAIRS = {
    "sm_90a": hopper_beside_triton,
    "sm_89, 128x128": partial(ada_beside_triton, "128x128", warps=8),
    "sm_89, 64x64": partial(ada_beside_triton, "64x64", warps=4),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_no_more_instructions_and_wavefronts_than_triton(pair):
    beside = PAIRS[pair]()
    assert torch.equal(*beside.results)
    assert beside.matrix_instructions[0] == beside.matrix_instructions[1]
    for ours, theirs in (beside.for_each, beside.wavefronts):
        assert 0 < ours <= theirs
