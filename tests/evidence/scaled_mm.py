"""scaled_mm's kernels: resources, main loops and traffic of each, the loops beside Triton's, and rooflines of the plans."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import assembled
import emulated
import roofline
import torch
from gpu_evidence import THREADS, occupancy, spread, table
from ptx_emulator import Policy, Result, launch
from torch import Tensor

FOLDER = "csrc/ops/scaled_mm"
FILES = {
    "sm_80": f"{FOLDER}/sm80.cu",
    "sm_89": f"{FOLDER}/sm89.cu",
    "sm_90a": f"{FOLDER}/sm90a.cu",
    "sm_120a": f"{FOLDER}/sm120a.cu",
}
PAIR = re.compile(r"_(e4m3|e5m2)_(e4m3|e5m2)$")
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
HOPPER = ("256x128", "128x128", "64x128", "128x256_fast", "128x64_swapped", "128x16_swapped")  # kTiles of sm90a.h
DEPTH = 128  # of a step of K
STEPS = 4
ONE = torch.ones(())


def fp8(rows: int, K: int, seed: int) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed)).to(E4M3)


@dataclass(frozen=True)
class Group:
    """A kernel for all pairs of formats."""

    target: str
    name: str  # of the pair E4M3, E4M3
    kernels: tuple[assembled.Assembled, ...]

    @property
    def tile(self) -> str:
        found = re.match(r"mpk_scaled_mm_sm\d+a?_(\w+?)(_promote)?_e4m3_e4m3$", self.name)
        assert found, self.name
        return found[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N) of a tile."""
        rows, columns = map(int, re.match(r"(\d+)x(\d+)", self.tile).groups())
        return (columns, rows) if "swapped" in self.tile else (rows, columns)

    @property
    def loops(self) -> list[Counter[str]]:
        return [assembled.main_loop(kernel) for kernel in self.kernels]

    def run(self, steps: int = STEPS) -> tuple[emulated.Launch, Result]:
        """One tile in the emulator."""
        M, N = self.shape
        device = emulated.EmulatedDevice(self.target, Policy(), sm_count=1)
        out, fast = torch.empty(M, N, dtype=BF16), "fast" in self.tile
        arguments = (fp8(M, steps * DEPTH, 1), fp8(N, steps * DEPTH, 2), ONE, ONE, None, out, False, fast, None)
        if self.target == "sm_90a":
            device.scaled_mm_sm90a(*arguments, HOPPER.index(self.tile), 1, 1)
        else:
            device.scaled_mm(*arguments)
        (each,), (result,) = device.launches, device.results
        assert each.kernel == self.name
        return each, result


def groups(target: str) -> Iterator[Group]:
    found: dict[str, list[assembled.Assembled]] = {}
    for name, kernel in assembled.assemble(FILES[target], target).items():
        if PAIR.search(name):
            found.setdefault(PAIR.sub("_e4m3_e4m3", name), []).append(kernel)
    for name, kernels in found.items():
        yield Group(target, name, tuple(kernels))


def moved(result: Result) -> int:
    """Bytes, in whole sectors."""
    ways = ("global_load", "global_store", "bulk_load", "bulk_store")
    return 32 * sum(result.counters[f"{way}_sectors"] for way in ways)


def kernel_rows() -> Iterator[list[str]]:
    for target in FILES:
        for group in groups(target):
            each, result = group.run()
            threads, first, loops = each.block[0], group.kernels[0], group.loops
            (M, N), matrix = group.shape, next(code for code in loops[0] if assembled.MATRIX.match(code))
            resident = occupancy(first, threads, target, each.shared_bytes) * THREADS[target] / threads
            compulsory = (M + N) * STEPS * DEPTH + M * N * BF16.itemsize
            conflicts = result.counters["shared_load_conflicts"] + result.counters["shared_store_conflicts"]
            yield [
                f"`{PAIR.sub('_*', group.name)}`",
                f"{threads}, {resident:.0f} an SM",
                str(max(assembled.highest_register(kernel.sass) for kernel in group.kernels)),
                str(sum(kernel.spilled for kernel in group.kernels)),
                f"{each.shared_bytes / 1024:.0f} KB",
                spread([float(loop["total"]) for loop in loops], 0),
                f"{loops[0][matrix]} {matrix}, {loops[0]['FADD']} FADD",
                spread([loop["total"] / loop[matrix] for loop in loops], 1),
                f"{moved(result) / compulsory:.2f}",
                str(conflicts),
            ]


@dataclass(frozen=True)
class Beside:
    """A kernel of ours and Triton's for the same tile: (ours, theirs)."""

    what: str
    matrix_instructions: tuple[int, int]  # in the main loop
    instructions: tuple[int, int]
    wavefronts: tuple[int, int]  # of shared memory, see the functions
    results: tuple[Tensor, Tensor]

    @property
    def for_each(self) -> tuple[float, float]:
        """Instructions for each matrix instruction."""
        ours, theirs = (n / m for n, m in zip(self.instructions, self.matrix_instructions, strict=True))
        return ours, theirs


def group_of(target: str, tile: str) -> Group:
    return next(group for group in groups(target) if group.tile == tile)


def data_wavefronts(result: Result) -> int:
    """Of data: mbarriers are initialised once, and there are more of them the more stages there are."""
    counters, found = result.counters, 0
    for instruction in counters.program:
        if not instruction.name.startswith("mbarrier"):
            at = counters.at(instruction.index)
            found += at.get("shared_load_wavefronts", 0) + at.get("shared_store_wavefronts", 0)
    return found


def hopper_beside_triton() -> Beside:
    """128 x 128 by 6 steps of K, both promoted; the wavefronts are those of the whole tile."""
    from ptx_emulator.triton_launch import bind_triton
    from triton.tools.tensor_descriptor import TensorDescriptor
    from triton_products import product_by_tma

    size, steps = 128, 6
    a, b = fp8(size, steps * DEPTH, 1), fp8(size, steps * DEPTH, 2)
    ours, theirs = torch.empty(size, size, dtype=BF16), torch.empty(size, size, dtype=BF16)
    maps = [TensorDescriptor.from_tensor(x, [size, size]) for x in (a, b, theirs)]
    options = {"BLOCK": size, "BLOCK_K": DEPTH, "PROMOTE": True, "num_warps": 8, "num_stages": 4}
    peer = bind_triton(product_by_tma, (*maps, ONE.reshape(1), steps * DEPTH), options, target=90)
    their_result = peer.launch((1, 1))
    their_loop = assembled.main_loop(assembled.assemble_ptx(peer.kernel.ptx, "sm_90a")[peer.kernel.kernel.name])
    group = group_of("sm_90a", "128x128")
    device = emulated.EmulatedDevice("sm_90a", Policy())
    device.scaled_mm_sm90a(a, b, ONE, ONE, None, ours, False, False, None, HOPPER.index("128x128"), 1, 1)
    loops = group.loops[0], their_loop
    assert device.results[0].counters["wgmma"] == their_result.counters["wgmma"]
    return Beside(
        "sm_90a, 128 x 128, promoted",
        (loops[0]["QGMMA"], loops[1]["QGMMA"]),
        (loops[0]["total"], loops[1]["total"]),
        (data_wavefronts(device.results[0]), data_wavefronts(their_result)),
        (ours, theirs),
    )


def ada_beside_triton(tile: str, warps: int) -> Beside:
    """Unpromoted: Triton 3.8 does not promote there, whatever is asked of it. The wavefronts are those of a step of K: half of
    what two more steps cost.
    """
    from ptx_emulator.compile import compile_triton
    from triton_products import product

    M, N = map(int, tile.split("x"))
    signature = {"a_ptr": "*fp8e4nv", "b_ptr": "*fp8e4nv", "out_ptr": "*fp32", "N": "i32", "K": "i32"}
    constants = {"BLOCK_M": M, "BLOCK_N": N, "BLOCK_K": DEPTH}
    peer = compile_triton(product, signature, constants, 89, list(signature), num_warps=warps, num_stages=3)
    group = group_of("sm_89", f"{tile}_fast")

    def both(steps: int) -> tuple[tuple[int, int], tuple[Tensor, Tensor]]:
        a, b = fp8(M, steps * DEPTH, 1), fp8(N, steps * DEPTH, 2)
        ours, theirs = torch.empty(M, N), torch.empty(M, N)
        device = emulated.EmulatedDevice("sm_89", Policy(), sm_count=1)
        device.scaled_mm(a, b, ONE, ONE, None, ours, False, True, None)
        arguments = [a.view(torch.uint8), b.view(torch.uint8), theirs, N, steps * DEPTH, *peer.scratch]
        result = launch(peer.kernel, 1, peer.block, arguments, shared_bytes=peer.shared_bytes)
        counted = tuple(
            sum(r.counters[f"shared_{what}_wavefronts"] for what in ("load", "store")) for r in (device.results[0], result)
        )
        return counted, (ours, theirs)

    (short, _), (long, results) = both(4), both(6)
    loops = group.loops[0], assembled.main_loop(assembled.assemble_ptx(peer.ptx, "sm_89")["product"])
    return Beside(
        f"sm_89, {M} x {N}, {warps} warps, unpromoted",
        (loops[0]["QMMA"], loops[1]["QMMA"]),
        (loops[0]["total"], loops[1]["total"]),
        ((long[0] - short[0]) // 2, (long[1] - short[1]) // 2),
        results,
    )


def beside_triton() -> list[Beside]:
    return [hopper_beside_triton(), ada_beside_triton("128x128", 8), ada_beside_triton("64x64", 4)]


def cells_of(b: Beside) -> list[str]:
    pairs = [b.matrix_instructions, b.instructions, tuple(round(x, 1) for x in b.for_each), b.wavefronts]
    return [b.what, *(f"{ours}, Triton {theirs}" for ours, theirs in pairs)]


def section() -> list[str]:
    head = ["kernel", "threads, blocks", "registers", "spilled", "shared", "main loop: instructions", "of these"]
    head += ["for each product", "bytes ratio", "conflicts"]
    peers = ["tile", "products in the loop", "instructions in the loop", "for each product", "wavefronts of shared memory"]
    return [
        "## Matrix products",
        "",
        "`*`: the pairs of formats. Registers are the most that the code names: kernels with `setmaxnreg` move them between",
        "their warps. The main loop is the innermost one with matrix instructions (*products*). *Bytes ratio*, *conflicts*: of",
        "one tile and 512 of K, as under Counts.",
        "",
        *table(head, kernel_rows()),
        "",
        "Ours and Triton's for the same tile, through the same ptxas and emulator. Wavefronts: on sm_90a of a tile and 768 of K,",
        "on sm_89 of a step of 128.",
        "",
        *table(peers, map(cells_of, beside_triton())),
        "",
        *roofline.section(),
    ]
