"""Mutants that survive, and why. Keys: subject, then mutator and ordinal, as mutation.py prints them."""

from __future__ import annotations

NOBODY_WAITS = "of the last round of the ring: nobody fills or awaits the stage again"
NO_WGMMA_FENCE_NEEDED = "nothing but wgmma has touched the accumulators since the first fence"
INIT_IS_SEEN = (
    "a barrier stands between the initialisation and the first copy, and code that is right on hardware (Triton's loads without "
    "pipelining) does without this fence there"
)
REMAINDER = "nvcc's loop for what four does not divide; 64 rows in steps of 8 are a multiple of it, so it never runs"
LAST_FLIP = "the parity is not used after the last stage"
NEVER_WRAPS = "the odd half of a loop unrolled by two: the stage is 1 or 3 and never wraps, so 0 is xored in"
FRESH_STAGE = "the stage that is filled next has not been used yet"
TWO_WAITS = "another wait for the same groups stands between it and the reads (at the end of the loop's body, or beside it)"
TWO_BARRIERS = "another barrier stands between the same accesses"
JOINS_THE_NEXT = "the copies join the next group, which the same wait covers"
INSIDE = "the rows or columns of this access are inside of every tile launched"
ONE_THREAD = "it stands between operations of one thread; the barriers before and after it order the others"
ONE_WARP = "it stands between operations of warp 0; the barriers before and after it order the others"
ONE_WARPGROUP = "all warps are one warpgroup, whose wgmma are complete for all once they are for one (Policy.wgmma_scope)"

HOPPER_GEMM = {
    "wait 10": NOBODY_WAITS,
    "weaker wait 2": NOBODY_WAITS,
    "fence 0": INIT_IS_SEEN,
    "fence 2": NO_WGMMA_FENCE_NEEDED,
    "fence 3": NO_WGMMA_FENCE_NEEDED,
    "swizzle 2": LAST_FLIP,
    "swizzle 11": NEVER_WRAPS,
}
TRITON_AMPERE = {
    "barrier 0": FRESH_STAGE,
    "barrier 2": TWO_BARRIERS,
    "wait 1": TWO_WAITS,
    "wait 2": TWO_WAITS,
    "wait 3": TWO_WAITS,
    "weaker wait 1": TWO_WAITS,
    "weaker wait 2": TWO_WAITS,
    "weaker wait 3": TWO_WAITS,
    "commit 0": JOINS_THE_NEXT,
    "bounds 0": INSIDE,
    "bounds 1": INSIDE,
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "transpose sm_90a": {"bounds 0": REMAINDER, "bounds 1": REMAINDER},
    "tma transpose sm_90a": {"fence 0": INIT_IS_SEEN},
    "multicast sm_90a": {
        "barrier 3": "each CTA has waited for both halves, so nobody writes into a CTA that has ended",
        "fence 0": INIT_IS_SEEN,
    },
    "gemm sm_90a": {
        **HOPPER_GEMM,
        "barrier 1": "the lanes of the producer's warp meet again only to end",
        "arrivals 14": NOBODY_WAITS,
    },
    "gemm pairs sm_90a": {
        **HOPPER_GEMM,
        "barrier 0": "a cluster barrier follows at once",
        "arrivals 16": NOBODY_WAITS,
        "arrivals 17": NOBODY_WAITS,
    },
    "triton gemm sm_80": TRITON_AMPERE,
    "triton gemm sm_89": TRITON_AMPERE,
    "triton gemm sm_90": {
        "barrier 0": FRESH_STAGE,
        "barrier 2": ONE_WARPGROUP,
        "commit 0": JOINS_THE_NEXT,
        "bounds 0": INSIDE,
        "bounds 1": INSIDE,
    },
    "triton tma gemm sm_90": {
        "barrier 0": TWO_BARRIERS,
        **{f"barrier {i}": ONE_THREAD for i in (2, 3, 4, 5, 6, 7, 10, 11)},
        "barrier 8": "every warp has waited for the stage itself",
        "barrier 9": ONE_WARPGROUP,
        **{f"bounds {i}": INSIDE for i in range(3)},
    },
    "triton tma gemm sm_100": {
        **{f"barrier {i}": TWO_BARRIERS for i in (1, 4, 11, 12, 20, 21, 22)},
        **{f"barrier {i}": ONE_WARP for i in (5, 7, 8, 9, 10, 13, 14, 15, 17, 18, 19)},
        "barrier 6": "warp 0, which starts the copies, comes after the other warps' accesses and has fenced itself since",
        "barrier 16": "every warp waits for the multiplication itself before the next barrier",
        **{f"bounds {i}": INSIDE for i in range(3)},
    },
}
# Real mistakes that the emulator does not see.
MISSED: dict[str, dict[str, str]] = {}
