"""Each kind of mistake must be found, under every policy, and the message must say what a kernel author needs."""

from __future__ import annotations

import numpy as np
import pytest

from .api import EVERY_POLICY, Buffer, KernelFault, launch

X = np.arange(4096, dtype=np.float32)


def zeros(n: int = 256) -> np.ndarray:
    return np.zeros(n, np.float32)


#        kernel -> grid, block, arguments, kinds allowed, words of the first report
FAULTS = {
    "out_of_bounds": (
        2,
        128,
        lambda: [X[:200], zeros(200), 200],
        {"out-of-bounds"},
        "global load of 4 bytes at 0x.* 0 bytes past the end of",
    ),
    "misaligned": (1, 32, lambda: [X, zeros()], {"misaligned"}, "load of 16 bytes at address .*, which is not a multiple of 16"),
    "uninitialised": (1, 64, lambda: [zeros()], {"uninitialised"}, r"reads 4 bytes at byte \d+ of shared .*tile \(256 bytes\)"),
    "missing_barrier": (1, 64, lambda: [X, zeros()], {"race", "uninitialised"}, "of shared .*tile"),
    "write_after_read": (
        1,
        64,
        lambda: [X, zeros()],
        {"race"},
        r"writes 4 bytes .* which warp \d reads|reads 4 bytes .* which warp \d wrote",
    ),
    "same_place": (1, 64, lambda: [zeros()], {"race"}, "several threads store different values|which warp . wrote"),
    "divergent_barrier": (1, 64, lambda: [zeros(), 32], {"deadlock"}, "32 threads wait for barrier 1 at PTX line"),
    "missing_wait": (1, 64, lambda: [X, zeros(1024)], {"in-flight"}, "while an asynchronous copy may still be writing it"),
    "never_waited": (1, 64, lambda: [X], {"in-flight"}, "the kernel ended while a cp.async operation was in flight"),
    "partial_warp": (1, 64, lambda: [zeros()], {"divergence"}, "part of a warp"),
    "global_race": (2, 128, lambda: [Buffer(zeros(), "y")], {"race"}, "of y .* CTA"),
    "global_race_read": (2, 32, lambda: [Buffer(zeros(128), "y"), 64], {"race", "uninitialised"}, "of y .* CTA"),
}


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: f"{p.schedule}-{p.completion}")
@pytest.mark.parametrize("name", list(FAULTS))
def test_fault_is_found(cuda, name, policy):
    grid, block, arguments, kinds, message = FAULTS[name]
    kernel = cuda("faults", "sm_90a")[name]
    with pytest.raises(KernelFault, match=message) as caught:
        launch(kernel, grid, block, arguments(), policy=policy)
    assert {r.kind for r in caught.value.reports} <= kinds
    if name != "never_waited":
        assert all(r.source and "faults.cu:" in r.source for r in caught.value.reports)


def test_reports_carry_their_place(cuda):
    kernel = cuda("faults", "sm_90a")["out_of_bounds"]
    result = launch(kernel, 2, 128, [X[:200], Buffer(zeros(200), "y"), 200], check=False)
    load, store = result.reports
    assert (load.kind, load.cta, load.thread) == ("out-of-bounds", (1, 0, 0), (72, 0, 0))
    assert load.count == 1
    assert "ld.global" in load.instruction.text
    assert store.message.endswith("0 bytes past the end of y (800 bytes)")
