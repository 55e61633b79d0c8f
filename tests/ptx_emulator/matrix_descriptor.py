"""Shared-memory matrix descriptors of wgmma (sm_90) and tcgen05 (sm_100): where the bytes of an operand tile lie.

A descriptor is 64 bits (PTX ISA, "Matrix Descriptor Format" of wgmma, "Shared Memory Descriptor" of tcgen05):

    bits  0-13  start address >> 4 (18 bits of it: the rank of a CTA in its cluster is lost, the tile is the CTA's own)
    bits 16-29  leading dimension byte offset (LBO) >> 4
    bits 32-45  stride dimension byte offset (SBO) >> 4
    bits 46-48  tcgen05: 0b001
    bits 49-51  base offset: bits 7-9 of the address where the swizzle pattern starts
    bit  52     tcgen05: the LBO is an address (sm_103a only; refused here)
    bits 61-63  swizzle: 0 none, 2 128 bytes, 4 64 bytes, 6 32 bytes, 1 (tcgen05) 128 bytes in atoms of 32

Layouts, in bytes from the start, with `span` bytes of swizzle (CUTLASS says the same in units of 16 bytes):

    K-major   row r, byte k of K:              r / 8 * SBO + r % 8 * span + k
              without swizzle:                 r / 8 * SBO + r % 8 * 16 + k / 16 * LBO + k % 16
    MN-major  row-direction byte m, index k:   m / span * LBO + k / 8 * SBO + k % 8 * span + m % span
              without swizzle:                 m / 16 * SBO + k / 8 * LBO + k % 8 * 16 + m % 16

Then bits 4-6 (4-5, 4) of the absolute address are xored with bits 7-9 (7-8, 7). That makes the address bits of a row select
the permutation, which is what TMA writes; so a K step of 32 bytes is 32 more in the start address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import reports
from .machine import Machine
from .spaces import FRESH, SHARED_BASE
from .syntax import Instruction, PTXError

PIECE = 16  # bytes that every layout keeps together
SPANS = {0: 16, 2: 128, 4: 64, 6: 32, 1: 128}
TMA_MODES = (0, 6, 4, 2)  # the swizzle field for the modes of a tensor map: none, 32, 64, 128 bytes
NAMES = {0: "no", 2: "128-byte", 4: "64-byte", 6: "32-byte", 1: "128-byte (32-byte atoms)"}


@dataclass(frozen=True)
class MatrixDescriptor:
    """The fields, in bytes. `base`: the base offset. `mode`: the swizzle field, three bits for both families."""

    start: int
    leading: int
    stride: int
    base: int
    mode: int

    @property
    def span(self) -> int:
        """Bytes of a row within the swizzle pattern; 16 without swizzle."""
        return SPANS[self.mode]

    @property
    def rows_per_pattern(self) -> int:
        return 4 if self.mode == 1 else 8

    def swizzle(self, addresses: np.ndarray) -> np.ndarray:
        if not self.mode:
            return addresses
        atom = 32 if self.mode == 1 else PIECE
        mask = self.span // atom - 1
        phase = (addresses - (self.base << 7)) >> 7 & mask
        return addresses ^ phase * atom

    def __str__(self) -> str:
        text = f"start {self.start:#x}, LBO {self.leading}, SBO {self.stride}, {NAMES[self.mode]} swizzle"
        return text + (f", base offset {self.base}" if self.base else "")


@dataclass(frozen=True)
class Tile:
    """The shape of an operand: `rows` of M or N, `depth` bytes of K in each (32, whatever the type), elements of `element` bytes.

    mn_major: consecutive elements in memory run along M or N. `used`: bytes of each piece of 16 that are read, from its start.
    """

    rows: int
    element: int = 1
    mn_major: bool = False
    depth: int = 32
    used: int = PIECE

    @property
    def shape(self) -> tuple[int, int]:
        """Pieces: (rows, pieces along K), or for MN-major (pieces along the rows, K)."""
        if self.mn_major:
            return self.rows * self.element // PIECE, self.depth // self.element
        return self.rows, self.depth // PIECE

    def assemble(self, pieces: np.ndarray) -> np.ndarray:
        """(rows, depth) bytes from (n, 16) bytes of pieces in order of `shape`."""
        if not self.mn_major:
            return pieces.reshape(self.rows, self.depth)
        along, k = self.shape
        turned = pieces.reshape(along, k, PIECE // self.element, self.element).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(turned).reshape(self.rows, self.depth)


def decode(bits: int, family: str) -> MatrixDescriptor:
    """`family`: "wgmma" or "tcgen05". PTXError says which field makes no sense."""
    field = lambda low, width: bits >> low & (1 << width) - 1  # noqa: E731
    mode = field(61, 3)
    if family == "wgmma" and mode & 1:
        raise PTXError(f"the swizzle field is bits 62-63, and bit 61 is set: {bits:#018x}")
    if mode not in SPANS:
        raise PTXError(f"swizzle mode {mode} (bits 61-63) does not exist: {bits:#018x}")
    if family == "tcgen05":
        if field(46, 3) != 1:
            raise PTXError(f"bits 46-48 are {field(46, 3)}, tcgen05 wants 1 (is this a descriptor for wgmma?): {bits:#018x}")
        if field(52, 1):
            raise PTXError(f"bit 52 (absolute leading dimension address) exists on sm_103a only: {bits:#018x}")
        if field(53, 8):
            raise PTXError(f"bits 53-60 must be zero: {bits:#018x}")
    return MatrixDescriptor(field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4, field(49, 3), mode)


def addresses(descriptor: MatrixDescriptor, tile: Tile) -> np.ndarray:
    """The shared address of each 16-byte piece of the tile, in order of `tile.shape`."""
    first, second = (np.arange(n) for n in tile.shape)
    span, group = descriptor.span, descriptor.rows_per_pattern
    if not tile.mn_major:
        rows = first // 8 * descriptor.stride + first % 8 * span
        columns = second * PIECE if descriptor.mode else second * descriptor.leading
    else:
        across, along = descriptor.leading, descriptor.stride
        if not descriptor.mode:
            across, along = along, across
        chunks = span // PIECE
        rows = first // chunks * across + first % chunks * PIECE
        columns = second // group * along + second % group * span
    return descriptor.swizzle(descriptor.start + rows[:, None] + columns[None, :]).reshape(-1)


@lru_cache(maxsize=4096)
def layout(bits: int, family: str, tile: Tile) -> tuple[MatrixDescriptor, np.ndarray, str | None]:
    """(descriptor, addresses of the pieces, what is wrong with it or None)."""
    descriptor = decode(bits, family)
    where = addresses(descriptor, tile)
    where.setflags(write=False)
    problem = None
    repeat = descriptor.span * descriptor.rows_per_pattern
    if descriptor.mode == 1 and not tile.mn_major:
        problem = "128-byte swizzle in 32-byte atoms is for MN-major tiles"
    elif descriptor.mode and not descriptor.base and descriptor.start % repeat >= descriptor.span:
        problem = (
            f"{NAMES[descriptor.mode]} swizzle repeats every {repeat} bytes, and the start is {descriptor.start % repeat} bytes "
            f"into the pattern: align the tile to {repeat} bytes, or give the descriptor a base offset"
        )
    elif not descriptor.mode and descriptor.base and family == "wgmma":  # Triton gives one to tcgen05.cp
        problem = "a base offset without swizzle means nothing"
    elif len(np.unique(where)) != len(where):
        problem = "several pieces of the tile lie at one address: look at LBO and SBO"
    return descriptor, where, problem


class OperandTile:
    """An operand tile of one matrix instruction in the shared memory of a CTA: checked, watched while in flight, read.

    begin(past) when the instruction is issued, read() when it is performed, end(agent) when it is known to be complete
    (see Sanitizer.begin_async_read and end_async_read). Pieces outside of the CTA's shared memory read as FRESH bytes.
    """

    def __init__(
        self,
        machine: Machine,
        instruction: Instruction,
        lane: int,
        bits: int,
        family: str,
        tile: Tile,
        name: str,
        cta: int | None = None,
    ) -> None:
        """`lane`: whom reports name. `name`: "A", "B". `cta`: the resident CTA whose memory it is; the lane's if not given."""
        self.machine, self.instruction, self.lane, self.tile, self.name = machine, instruction, lane, tile, name
        shared = machine.memory.shared
        try:
            self.descriptor, where, problem = layout(int(bits), family, tile)
        except PTXError as error:
            machine.stop(reports.DESCRIPTOR, f"the descriptor of {name}: {error}", instruction, lane)
        if problem is not None:
            message = f"the descriptor of {name} ({self.descriptor}): {problem}"
            machine.report(reports.DESCRIPTOR, message, instruction, lane, detail=name)
        outside = (where < SHARED_BASE) | (where + PIECE > SHARED_BASE + shared.bytes)
        self.good = None
        self.offsets = (machine.cta_of[lane] if cta is None else cta) * shared.stride + where
        if outside.any():
            self.good = ~outside
            first = int(where[int(np.argmax(outside))])
            message = f"{name} ({tile.rows} rows, descriptor: {self.descriptor}) reaches {shared.describe(first, PIECE)}"
            machine.report(reports.OUT_OF_BOUNDS, message, instruction, lane, first, int(outside.sum()), detail=name)
            self.offsets = self.offsets[self.good]

    def begin(self, past: np.ndarray) -> None:
        """Issued by something whose past is `past` (rows of the sanitizer): reads through the async proxy."""
        if len(self.offsets):
            self.machine.sanitizer.begin_async_read(self.instruction, self.offsets, self.tile.used, past, self.lane)
            self._check_swizzle()

    def _check_swizzle(self) -> None:
        """What TMA wrote in one mode must be read in it."""
        machine, modes = self.machine, self.machine.memory.shared.swizzle
        mine = TMA_MODES.index(self.descriptor.mode) if self.descriptor.mode in TMA_MODES else None
        if modes is None or mine is None or not machine.sanitizer.enabled:
            return
        other = modes[self.offsets // PIECE] != mine
        if not other.any():
            return
        writers = machine.sanitizer.write_index[machine.sanitizer.cells(self.offsets, PIECE)[:, 0]]
        for at in np.flatnonzero(other):
            writer = machine.program[int(writers[at])]
            if writer.opcode == "cp" and writer.modifiers[:3] == ("async", "bulk", "tensor"):
                place = machine.memory.place(machine.memory.shared, int(self.offsets[at]), PIECE)
                message = f"the descriptor of {self.name} says {NAMES[self.descriptor.mode]} swizzle, but TMA wrote {place} with "
                message += f"{NAMES[TMA_MODES[int(modes[self.offsets[at] // PIECE])]]} swizzle at PTX line {writer.line}"
                machine.report(reports.DESCRIPTOR, message, self.instruction, self.lane, detail=f"{self.name} swizzle")
                return

    def read(self) -> np.ndarray:
        """(rows, depth) bytes."""
        found = self.machine.memory.shared.data.reshape(-1, PIECE)[self.offsets // PIECE]
        if self.good is not None:
            pieces = np.full((len(self.good), PIECE), FRESH, np.uint8)
            pieces[self.good] = found
            found = pieces
        return self.tile.assemble(found)

    def end(self, agent: int, step: int | None = None) -> None:
        """Known to be complete to `agent`. `step`: see Sanitizer.end_async_read."""
        if len(self.offsets):
            self.machine.sanitizer.end_async_read(self.offsets, self.tile.used, agent, step)
