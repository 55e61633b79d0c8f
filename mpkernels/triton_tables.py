"""Lists of tensors for Triton kernels: a table on the device of where they are, and which program works on which piece.

A program takes one chunk of one tensor. `rows` has one row of int64 for each tensor: elements, first chunk, whether all of its
pointers are 16-byte aligned (but those to scalars), the pointers, and a word of the caller's if it has one; `chunks` names each
chunk's tensor.

A table depends on addresses and sizes only, and a training step passes the same ones again: tables are kept and looked up, so
that nothing is copied to the device from the second step on. One that is made while a CUDA graph is being captured is kept for
good, together with its pinned source, since the graph's replays copy it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 16384  # elements: some 100 KB to 450 KB of traffic a program, and an even load with thousands of programs
HEADER = 3  # columns before the pointers
TABLES_KEPT = 64


class Table(NamedTuple):
    rows: Tensor
    chunks: Tensor
    tensors: int
    launches: int  # chunks in all


_tables: OrderedDict[tuple[object, ...], tuple[Table, Tensor]] = OrderedDict()
_captured: list[tuple[Table, Tensor]] = []


def table_of(columns: Sequence[Sequence[Tensor]], numels: Sequence[int], device: torch.device, last: Sequence[int] = ()) -> Table:
    """The table whose i-th row points to the i-th tensor of each column and ends with the i-th of `last`.

    `numels`: elements of each row's tensors.
    """
    key = (device, *numels, *last, *(t.data_ptr() for column in columns for t in column))
    if key in _tables:
        _tables.move_to_end(key)
        return _tables[key][0]
    made = make_table(columns, numels, device, last)
    if capturing(device):
        _captured.append(made)
    else:
        _tables[key] = made
        if len(_tables) > TABLES_KEPT:
            _tables.popitem(last=False)
    return made[0]


def capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def make_table(
    columns: Sequence[Sequence[Tensor]], numels: Sequence[int], device: torch.device, last: Sequence[int]
) -> tuple[Table, Tensor]:
    """The table and the host's copy of it."""
    words: list[int] = []
    chunks: list[int] = []
    for i, numel in enumerate(numels):
        pointers = [column[i].data_ptr() for column in columns]
        aligned = all(column[i].data_ptr() % 16 == 0 for column in columns if column[i].dim())
        words += [numel, len(chunks), int(aligned), *pointers, *last[i : i + 1]]
        chunks += [i] * (-(-numel // CHUNK))
    host = torch.tensor(words + chunks, dtype=torch.int64, pin_memory=device.type == "cuda")
    there = host.to(device, non_blocking=True)
    return Table(there[: len(words)], there[len(words) :], len(numels), len(chunks)), host
