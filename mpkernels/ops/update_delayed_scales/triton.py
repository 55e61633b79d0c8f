"""Triton kernel: one program for each history. It reads all of a history before it writes it back, one place further."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import triton_launch
from ...triton_device import as_float64, float64_bits, scales_of
from ...triton_tables import HEADER, table_of

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")


@triton.jit(do_not_specialize_on_alignment=["rows"])
def update_delayed_scales_kernel(
    rows,
    step_ended,
    finished,
    POWER_OF_TWO: tl.constexpr,
    MOST_RECENT: tl.constexpr,
    HEADER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Columns of the table: history, quant_scale, dequant_scale, and the bits of fp8_max / 2^margin in float64.

    The program that finishes last clears step_ended: until then others may still look at it.
    """
    tensor = tl.program_id(0)
    row = rows + tensor * (HEADER + 4)
    length = tl.load(row)
    history = tl.load(row + HEADER).to(tl.pointer_type(tl.float32))
    quant_scale = tl.load(row + HEADER + 1).to(tl.pointer_type(tl.float32))
    dequant_scale = tl.load(row + HEADER + 2).to(tl.pointer_type(tl.float32))
    if tl.load(step_ended) != 0.0:
        index = tl.arange(0, BLOCK)
        values = tl.load(history + index, mask=index < length, other=0.0)
        values = tl.where((tl.abs(values) < float("inf")) | (index > 0), values, 0.0)  # an Inf or NaN of this step says nothing
        # Maxima of the bits, so that a NaN is seen; amax values are not negative.
        looked_at = tl.where(index == 0, values, 0.0) if MOST_RECENT else values
        amax = tl.max(looked_at.to(tl.int32, bitcast=True), 0).to(tl.float32, bitcast=True)
        largest = as_float64(tl.load(row + HEADER + 3))
        new_quant_scale, new_dequant_scale = scales_of(amax, largest, tl.load(quant_scale), POWER_OF_TWO)
        tl.debug_barrier()
        tl.store(history + index + 1, values, mask=index + 1 < length)
        tl.store(history, 0.0)
        tl.store(quant_scale, new_quant_scale)
        tl.store(dequant_scale, new_dequant_scale)
    tl.debug_barrier()  # one thread counts for all, which must have looked by then
    if tl.atomic_add(finished, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(step_ended, 0.0)


def why_not(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    *_options: object,
) -> str | None:
    return triton_launch.why_not("step_ended", step_ended)


def run(
    amax_histories: Sequence[Tensor],
    quant_scales: Sequence[Tensor],
    dequant_scales: Sequence[Tensor],
    step_ended: Tensor,
    fp8_maxima: Sequence[float],
    margin: int,
    power_of_two: bool,
    most_recent: bool,
) -> None:
    if not amax_histories:
        step_ended.zero_()
        return
    columns = [amax_histories, quant_scales, dequant_scales]
    largest = [float64_bits(fp8_max * 2.0**-margin) for fp8_max in fp8_maxima]
    table = table_of(columns, [h.numel() for h in amax_histories], step_ended.device, largest)
    block = triton.next_power_of_2(max(h.numel() for h in amax_histories))
    triton_launch.launch(
        update_delayed_scales_kernel,
        len(amax_histories),
        (table.rows, step_ended, torch.zeros(1, dtype=torch.int32, device=step_ended.device)),
        {"POWER_OF_TWO": power_of_two, "MOST_RECENT": most_recent, "HEADER": HEADER, "BLOCK": block},
        behind=[t for column in columns for t in column],
    )
