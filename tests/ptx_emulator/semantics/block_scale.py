"""Block scales of mma.sync (sm_120a): which bits of which thread scale which row or column.

mma.sync...block_scale d, a, b, c, scale-a, {byte-id, thread-id}, scale-b, {byte-id, thread-id}: K is cut into blocks (1X: one of
32, 2X: two of 32, 4X: four of 16), and every row of A and column of B has a scale for each block (PTX ISA, "Block Scaling for
mma.sync"). In the quad of lanes 4g ... 4g + 3, lane 4g + 2 * thread-id holds row g of A and the lane after it row g + 8; lane
4g + thread-id holds column g of B. Block j's scale is byte byte-id + j of that lane's register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import numerics as nx
from .. import reports
from ..binding import Binding
from ..registers import TYPES, WARP, Active

BLOCKS = {"scale_vec::1X": 1, "scale_vec::2X": 2, "scale_vec::4X": 4}
FORMS = {  # (vector, type of the scales) that a kind has; the first vector is the default
    "mxf8f6f4": [("scale_vec::1X", "ue8m0")],
    "mxf4": [("scale_vec::2X", "ue8m0")],
    "mxf4nvf4": [("scale_vec::2X", "ue8m0"), ("scale_vec::4X", "ue8m0"), ("scale_vec::4X", "ue4m3")],
}
GROUP = np.arange(WARP // 4)
Apply = Callable[[Active, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def selector(b: Binding, which: int, blocks: int, threads: int) -> Callable[[Active], tuple[int, int]]:
    """The {byte-id, thread-id} operand, which all lanes must give alike."""
    sources = b.sources(which, TYPES["u16"])
    if len(sources) != 2:
        b.fail("a selector {byte-id, thread-id} is expected")

    def read(active: Active) -> tuple[int, int]:
        values = [b.compact(s, active) for s in sources]
        if any((v != v[0]).any() for v in values):
            b.machine.stop(reports.DIVERGENCE, "the threads of a warp give different scale selectors", b.instruction)
        byte, thread = (int(v[0]) for v in values)
        if byte % blocks or byte + blocks > 4 or thread >= threads:
            message = (
                f"a scale selector {{{byte}, {thread}}}: byte-id is a multiple of {blocks} below 4, thread-id is below {threads}"
            )
            b.machine.stop(reports.DESCRIPTOR, message, b.instruction, active.lanes[0])
        return byte, thread

    return read


def scales(b: Binding, kind: str, k: int) -> Apply:
    """Consumes the vector size and the type of the scales. Returned is what scales (warps, 16, k) and (warps, k, 8) values."""
    forms = FORMS[kind]
    vector = b.choice(*BLOCKS, default=forms[0][0])
    form = b.left.pop() if b.left else ""
    if (vector, form) not in forms:
        b.fail(f"kind::{kind} has no scales .{vector}.{form}")
    blocks, table = BLOCKS[str(vector)], nx.TABLES[form]
    if len(b.operands) != 8:
        b.fail("eight operands are expected")
    words = [b.source(which, TYPES["b32"]) for which in (4, 6)]
    chosen = [selector(b, 5, blocks, 2), selector(b, 7, blocks, 4)]

    def values(which: int, active: Active, lanes: Any) -> np.ndarray:
        """(warps, ..., k) factors from the registers of these lanes."""
        byte = chosen[which](active)[0]
        registers = np.ascontiguousarray(b.compact(words[which], active)).view(np.uint8).reshape(-1, WARP, 4)
        return np.repeat(table[registers[:, lanes, byte : byte + blocks]], k // blocks, axis=-1)

    def apply(active: Active, a: np.ndarray, bb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = 4 * GROUP + 2 * chosen[0](active)[1]
        rows = values(0, active, np.concatenate([first, first + 1]))
        columns = values(1, active, 4 * GROUP + chosen[1](active)[1])
        return a * rows, bb * columns.transpose(0, 2, 1)

    return apply
