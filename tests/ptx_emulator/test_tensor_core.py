"""The models of FP8 tensor cores against mmaemu, an independent implementation, bit for bit through the instructions.

mma.sync on "ada" and wgmma on "hopper": random codes and those that make accumulation hard.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from .test_matrix import place_a, place_b, place_c
from .test_wgmma import DONE, DTYPES, FENCE, K_MAJOR_128, gather_d, launch_core, multiply, pad, place_d, swizzled
from .testing import run_lanes

model = pytest.importorskip("mmaemu.model")

PAIRS = list(product(["e4m3", "e5m2"], repeat=2))
CASES = ["codes", "finite", "subnormal", "cancelling", "spread", "zeros"]
TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def codes(case: str, kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """(rows, columns) codes of an FP8 format."""
    every = np.arange(256, dtype=np.uint8)
    finite = every[np.isfinite(every.view(DTYPES[kind]).astype(np.float32))]
    fraction = 3 if kind == "e4m3" else 2
    if case == "codes":  # NaN and infinities among them, in some rows only
        found = rng.choice(every, (rows, columns))
        return np.where(rng.random((rows, 1)) < 0.3, found, rng.choice(finite, (rows, columns)))
    if case == "subnormal":
        return rng.choice(finite[(finite & 0x7F) < 2 << fraction], (rows, columns))
    if case == "cancelling":  # each pair of products nearly cancels
        found = rng.choice(finite, (rows, columns))
        found[:, 1::2] = found[:, ::2] ^ 0x80 ^ (rng.random((rows, columns // 2)) < 0.3)
        return np.where(np.isfinite(found.view(DTYPES[kind]).astype(np.float32)), found, 0)
    if case == "spread":  # one large product, many that are cut to little or nothing beside it
        found = rng.choice(finite[(finite & 0x7F) < 4 << fraction], (rows, columns))
        found[:, 5] = finite[finite < 128].max()
        return found
    if case == "zeros":
        return rng.choice(np.array([0, 0x80, 0x38], np.uint8), (rows, columns))
    return rng.choice(finite, (rows, columns))


def accumulators(case: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    c = (rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-30, 20, (rows, columns))).astype(np.float32)
    if case == "codes":
        special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 2.0**-140, 3e38, -3e38], np.float32)
        c = np.where(rng.random(c.shape) < 0.2, rng.choice(special, c.shape), c)
    return np.zeros_like(c) if case == "zeros" else c


def reference(a: np.ndarray, b: np.ndarray, kinds: tuple[str, str], c: np.ndarray, preset: str) -> np.ndarray:
    """A (M, K) codes, B (N, K) codes."""
    (m, k), n = a.shape, len(b)
    left, right = (torch.from_numpy(x).view(TORCH[kind]) for x, kind in zip((a, b), kinds, strict=True))
    spread = left[:, None].view(torch.uint8).expand(m, n, k).contiguous().view(TORCH[kinds[0]])
    other = right[None].view(torch.uint8).expand(m, n, k).contiguous().view(TORCH[kinds[1]])
    return model.dot(spread, other, torch.from_numpy(c), preset=preset).numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_mma_as_ada(case, kinds):
    rng = np.random.default_rng(1)
    a, b = codes(case, kinds[0], 16, 32, rng), codes(case, kinds[1], 8, 32, rng)
    c = accumulators(case, 16, 8, rng)
    fragment_a = np.array([[a[place_a(lane, i, 32, 4)] for i in range(16)] for lane in range(32)])
    fragment_b = np.array([[b[place_b(lane, i, 32, 4)[::-1]] for i in range(8)] for lane in range(32)])
    fragment_c = np.array([[c[place_c(lane, i)] for i in range(4)] for lane in range(32)], np.float32)
    inputs = [("b32", w) for x in (fragment_a, fragment_b, fragment_c) for w in np.ascontiguousarray(x.view(np.uint32).T)]
    groups = ", ".join("{" + ", ".join(f"%i{i}" for i in g) + "}" for g in (range(4), range(4, 6), range(6, 10)))
    text = f"mma.sync.aligned.m16n8k32.row.col.f32.{kinds[0]}.{kinds[1]}.f32 {{%o0, %o1, %o2, %o3}}, {groups};"
    got = np.stack(run_lanes(text, ["b32"] * 4, *inputs, numerics="ada"), axis=1)
    want = reference(a, b, kinds, c, "ada").view(np.uint32)
    for lane, i in product(range(32), range(4)):
        assert got[lane, i] == want[place_c(lane, i)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_wgmma_as_hopper(case, kinds):
    """K = 128: four instructions one after the other, from an accumulator that is loaded."""
    rng = np.random.default_rng(2)
    n, k = 16, 128
    a, b = codes(case, kinds[0], 64, k, rng), codes(case, kinds[1], n, k, rng)
    c = accumulators(case, 64, n, rng)
    image = pad(np.concatenate([swizzled(a), swizzled(b)]))
    by_thread = np.array([[c[place_d(thread, r)] for r in range(n // 2)] for thread in range(128)], np.float32)
    loads = f"ld.param.u64 %from, [a]; mul.wide.u32 %at, %id, {2 * n}; add.u64 %from, %from, %at;"
    loads += "".join(f"ld.global.b32 %d{i}, [%from+{image.size + 4 * i}];" for i in range(n // 2))
    step = multiply(n, ".".join(kinds), 32, scale_d="1") + "add.u64 %da, %da, 2; add.u64 %db, %db, 2;"
    core = loads + FENCE + 4 * step + DONE
    where = K_MAJOR_128, K_MAJOR_128 + (8192 >> 4)
    _, out = launch_core(core, image, n, "f32", *where, extra=by_thread.view(np.uint8).reshape(-1), numerics="hopper")
    want = reference(a, b, kinds, c, "hopper")
    np.testing.assert_array_equal(gather_d(out, n).view(np.uint32), want.view(np.uint32))
