"""Kernels of rows and elements of the Triton corpus: normalisation, losses, reductions, scans, sorting, atomics, casts."""

from __future__ import annotations

import torch

from .corpus_work import BF16, E4M3, E5M2, FP16, FP32, INT8, INT32, Tensor, Work, cdiv, close, empty, integers, normal, out
from .kernels import triton_kernels, triton_rows


def softmax(dtype: torch.dtype, cols: int = 1000) -> Work:
    x, result = normal(3, cols, dtype=dtype), empty(3, cols, dtype=dtype)
    options = {"BLOCK": 1 << (cols - 1).bit_length()}
    check = lambda: close(result, x.double().softmax(-1), roundings=16 if dtype == FP32 else 1.01)  # noqa: E731
    return Work(triton_kernels.softmax, (3,), (x, out(result, "out"), cols), options, check)


def layer_norm(dtype: torch.dtype, block: int = 512) -> Work:
    rows, cols = 3, 1100
    x, weight, bias = normal(rows, cols, dtype=dtype), normal(cols, seed=1), normal(cols, seed=2)
    result, mean, rstd = empty(rows, cols, dtype=dtype), empty(rows), empty(rows)
    want = torch.nn.functional.layer_norm(x.double(), (cols,), weight.double(), bias.double(), 1e-5)
    args = (x, weight, bias, out(result, "out"), out(mean, "mean"), out(rstd, "rstd"), cols, 1e-5)

    def check() -> None:
        close(result, want, absolute=2.0**-21)
        close(rstd, (x.double().var(-1, unbiased=False) + 1e-5).rsqrt(), roundings=8)

    return Work(triton_rows.layer_norm, (rows,), args, {"BLOCK": block}, check)


def weight_gradient() -> Work:
    rows, cols, groups = 12, 200, 3
    dy, x, mean, rstd = normal(rows, cols), normal(rows, cols, seed=1), normal(rows, seed=2), normal(rows, seed=3).abs()
    partial, locks, counts = torch.zeros(groups, cols), torch.zeros(groups, dtype=INT32), torch.zeros(groups, dtype=INT32)
    want = (dy.double() * (x.double() - mean[:, None]) * rstd[:, None]).view(-1, groups, cols).sum(0)
    args = (dy, x, mean, rstd, partial, locks, counts, rows, cols)
    check = lambda: close(partial, want, absolute=2.0**-21)  # noqa: E731
    return Work(triton_rows.weight_gradient, (rows,), args, {"GROUPS": groups, "BLOCK": 256}, check)


def cross_entropy(dtype: torch.dtype, block: int = 256) -> Work:
    rows, cols = 4, 700
    logits, target, loss = normal(rows, cols, dtype=dtype) * 3, integers(rows, low=0, high=cols), empty(rows)
    want = torch.nn.functional.cross_entropy(logits.double(), target.long(), reduction="none")
    check = lambda: close(loss, want, absolute=2.0**-21)  # noqa: E731
    args = (logits, target, out(loss, "loss"), cols)
    return Work(triton_rows.cross_entropy, (rows,), args, {"BLOCK": block}, check)


def reductions(dtype: torch.dtype, axis: int, shape: tuple[int, int] = (64, 128)) -> Work:
    x = integers(*shape, low=-9999, high=9999).unique(sorted=False)
    x = torch.cat([x, torch.arange(10_000, 10_000 + shape[0] * shape[1] - len(x))])  # all different: one argmax
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].view(shape).to(dtype)
    n = shape[1 - axis]
    sums, most, argmax, argmin, xors = empty(n), empty(n, dtype=dtype), *(empty(n, dtype=INT32) for _ in range(3))
    want = x.int()[0] if axis == 0 else x.int()[:, 0]
    for i in range(1, shape[axis]):
        want = want ^ x.int().select(axis, i)

    def check() -> None:
        close(sums, x.double().sum(axis), absolute=2.0**-21)
        assert torch.equal(most, x.amax(axis))
        assert torch.equal(argmax, x.argmax(axis).int())
        assert torch.equal(argmin, x.argmin(axis).int())
        assert torch.equal(xors, want)

    results = [
        out(t, name)
        for t, name in zip((sums, most, argmax, argmin, xors), ("sum", "max", "argmax", "argmin", "xor"), strict=True)
    ]
    options = {"ROWS": shape[0], "COLS": shape[1], "AXIS": axis}
    return Work(triton_rows.reductions, (1,), (x, *results), options, check)


def scans(reverse: bool) -> Work:
    shape = (4, 256)
    x, gate = normal(*shape), torch.sigmoid(normal(*shape, seed=1)) * 0.2 + 0.9
    sums, products, states = (empty(*shape) for _ in range(3))
    order = -1 if reverse else 1
    flip = lambda t: t.flip(1) if order < 0 else t  # noqa: E731
    want, h = [], torch.zeros(shape[0], dtype=torch.float64)
    for i in range(shape[1]):
        h = flip(gate)[:, i].double() * h + flip(x)[:, i].double()
        want.append(h)

    def check() -> None:
        close(sums, flip(flip(x).double().cumsum(1)), absolute=2.0**-19)
        close(products, flip(flip(gate).double().cumprod(1)), roundings=512)  # every factor errs by half a rounding
        close(states, flip(torch.stack(want, 1)), absolute=2.0**-19)

    options = {"ROWS": shape[0], "COLS": shape[1], "REVERSE": reverse}
    results = (out(sums, "sum"), out(products, "product"), out(states, "state"))
    return Work(triton_rows.scans, (1,), (x, gate, *results), options, check)


def sorting(dtype: torch.dtype) -> Work:
    rows, cols, top = 4, 128, 8
    x = normal(rows, cols, dtype=dtype) if dtype.is_floating_point else integers(rows, cols, low=-50, high=50, dtype=dtype)
    ordered, best, flipped = empty(rows, cols, dtype=dtype), empty(rows, top, dtype=dtype), empty(rows, cols, dtype=dtype)

    def check() -> None:
        assert torch.equal(ordered, x.sort(-1).values)
        assert torch.equal(best, x.topk(top).values)
        assert torch.equal(flipped, x.flip(1))

    args = (x, out(ordered, "sorted"), out(best, "top"), out(flipped, "flipped"))
    return Work(triton_rows.sorting, (1,), args, {"ROWS": rows, "COLS": cols, "TOP": top}, check)


def shuffles(dtype: torch.dtype) -> Work:
    rows, cols = 32, 64
    x, index = normal(rows, cols, dtype=dtype), integers(rows, cols, low=0, high=rows)
    gathered, joined, turned = (empty(rows, cols, dtype=dtype) for _ in range(3))

    def check() -> None:
        assert torch.equal(gathered, x.gather(0, index.long()))
        assert torch.equal(joined, x.view(rows, -1, 2).flip(-1).reshape(rows, cols))
        assert torch.equal(turned.view(-1), x.view(rows, -1, 8).permute(2, 0, 1).reshape(-1))

    args = (x, index, out(gathered, "gathered"), out(joined, "joined"), out(turned, "turned"))
    return Work(triton_rows.shuffles, (1,), args, {"ROWS": rows, "COLS": cols}, check)


def histogram(bins: int = 64) -> Work:
    n, block = 900, 512
    x = integers(n, low=0, high=bins)
    ours, theirs = torch.zeros(bins, dtype=INT32), torch.zeros(bins, dtype=INT32)

    def check() -> None:
        want = torch.bincount(x, minlength=bins).int()
        assert torch.equal(ours, want)
        assert torch.equal(theirs, want)

    return Work(triton_rows.histogram, (2,), (x, ours, theirs, n), {"BINS": bins, "BLOCK": block}, check)


def atomics(dtype: torch.dtype) -> Work:
    n, places = 700, 16
    x, index = integers(n, low=-4, high=5).to(dtype), integers(n, low=0, high=places)  # sums are exact in any order
    added, most = torch.zeros(places, dtype=dtype), torch.full((places,), -torch.inf)
    least, bits = torch.full((places,), 9999, dtype=INT32), torch.zeros(places, dtype=INT32)

    def check() -> None:
        at = index.long()
        assert torch.equal(added.float(), torch.zeros(places).index_add(0, at, x.float()))
        assert torch.equal(most, torch.full((places,), -torch.inf).scatter_reduce(0, at, x.float(), "amax"))
        assert torch.equal(least, torch.full((places,), 9999).scatter_reduce(0, at, (x.float() * 100).long(), "amin").int())
        want = torch.zeros(places, dtype=INT32)
        for i in range(n):
            want[at[i]] |= 1 << (i % 31)
        assert torch.equal(bits, want)

    return Work(triton_rows.atomics, (3,), (x, index, added, most, least, bits, n), {"BLOCK": 256}, check)


def casts(dtype: torch.dtype, e4m3: bool = True) -> Work:
    n = 700
    x = (normal(n) * torch.logspace(-6, 2, n)).to(dtype)
    results = [empty(n, dtype=t) for t in (E4M3, E5M2, BF16, FP16, INT8, FP32)]

    def check() -> None:
        for got in results[:4]:
            if got.dtype == E4M3 and not e4m3:
                continue
            want = x.float().clamp(-448, 448).to(E4M3) if got.dtype == E4M3 else x.float().to(got.dtype)
            assert torch.equal(got.float(), want.float()), got.dtype
        assert torch.equal(results[4], x.float().clamp(-128, 127).to(INT8))
        assert torch.equal(results[5], x.float().to(E5M2).float())

    args = [x, *(out(t, str(t.dtype)) for t in results), n]
    if not e4m3:
        args[1] = None
    return Work(triton_rows.casts, (3,), args, {"BLOCK": 256}, check)


def quantize_blocks(dtype: torch.dtype, to: torch.dtype) -> Work:
    rows, cols, block = 6, 300, 128
    x, q, scale = normal(rows, cols, dtype=dtype), empty(rows, cols, dtype=to), empty(rows, 3)
    padded = torch.nn.functional.pad(x.float(), (0, 3 * block - cols)).view(rows, 3, block)
    most = padded.abs().amax(-1)

    def check() -> None:
        close(scale, most.double() / 448)
        want = (padded * (448 / most)[..., None]).view(rows, -1)[:, :cols].to(to)  # div.full may differ in the last place
        assert (q.view(torch.uint8) == want.view(torch.uint8)).double().mean() > 0.99
        close(q.float().to(BF16), want.float(), roundings=32 if to == E4M3 else 64)

    args = (x, out(q, "q"), out(scale, "scale"), cols)
    return Work(triton_rows.quantize_blocks, (rows, 3), args, {"BLOCK": block}, check)


def dropout() -> Work:
    n, p, seed = 900, 0.3, 1234
    x, result, bits = normal(n), empty(n), empty(n, dtype=INT32)
    words = philox(seed, torch.arange(n))

    def check() -> None:
        assert torch.equal(bits.long() & 0xFFFFFFFF, words)
        signed = bits.long()
        uniform = torch.where(signed < 0, -signed - 1, signed).float() * 4.6566127342e-10
        assert torch.equal(result != 0, uniform > torch.tensor(p))
        close(result, torch.where(uniform > p, x.double() / (1 - p), 0.0), roundings=4)

    args = (x, out(result, "out"), out(bits, "bits"), n, p, seed)
    return Work(triton_rows.dropout, (2,), args, {"BLOCK": 512}, check)


def philox(seed: int, counter: Tensor) -> Tensor:
    """The first word of Philox4x32-10 (Salmon et al., 2011) for each counter."""
    c, key = [counter.tolist(), *([0] * len(counter) for _ in range(3))], (seed & 0xFFFFFFFF, seed >> 32)
    words = []
    for i in range(len(counter)):
        c0, c1, c2, c3 = (column[i] for column in c)
        k0, k1 = key
        for _ in range(10):
            high, low = 0xD2511F53 * c0, 0xCD9E8D57 * c2
            c0, c1, c2, c3 = (low >> 32) ^ c1 ^ k0, low & 0xFFFFFFFF, (high >> 32) ^ c3 ^ k1, high & 0xFFFFFFFF
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        words.append(c0)
    return torch.tensor(words)


def transpose(dtype: torch.dtype, block: tuple[int, int]) -> Work:
    rows, cols = 100, 152
    x = integers(rows, cols, low=0, high=127).to(dtype) if dtype.itemsize == 1 else normal(rows, cols, dtype=dtype)
    result = empty(cols, rows, dtype=dtype)
    options = {"BLOCK_M": block[0], "BLOCK_N": block[1]}
    grid = (cdiv(rows, block[0]), cdiv(cols, block[1]))
    check = lambda: torch.testing.assert_close(result, x.T.contiguous(), rtol=0, atol=0)  # noqa: E731
    return Work(triton_rows.transpose, grid, (x, out(result, "out"), rows, cols), options, check)


def functions() -> Work:
    n = 500
    x, result = normal(n), empty(n)
    d = x.double()
    want = d.exp() + (d.abs() + 1).log() + d.abs().sqrt() + d.sin() + d.cos() + d.erf() + d.sigmoid()
    want = want + d.exp2() + (d.abs() + 1).log2() + d.floor() + d.ceil()
    check = lambda: close(result, want, absolute=2.0**-20)  # noqa: E731
    return Work(triton_rows.functions, (2,), (x, out(result, "out"), n), {"BLOCK": 256}, check)
