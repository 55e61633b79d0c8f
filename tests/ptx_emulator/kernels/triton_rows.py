"""Triton kernels of a row, or of all of a small tensor: normalisation, losses, reductions, scans, sorting, atomics, casts."""

import triton
import triton.language as tl


@triton.jit
def layer_norm(x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, cols, eps, BLOCK: tl.constexpr):
    """Forward, over rows longer than a block; mean and variance in two passes."""
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / cols
    square = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0).to(tl.float32)
        square += tl.where(c < cols, (x - mean) * (x - mean), 0.0)
    rstd = tl.rsqrt(tl.sum(square, 0) / cols + eps)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, rstd)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0).to(tl.float32)
        weight, bias = tl.load(weight_ptr + c, mask=c < cols), tl.load(bias_ptr + c, mask=c < cols)
        tl.store(out_ptr + row * cols + c, ((x - mean) * rstd * weight + bias).to(out_ptr.dtype.element_ty), mask=c < cols)


@triton.jit
def weight_gradient(
    dy_ptr, x_ptr, mean_ptr, rstd_ptr, dw_ptr, lock_ptr, count_ptr, rows, cols, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Of layer_norm: each program adds its row to one of GROUPS partial sums, under a lock made of atomics."""
    row = tl.program_id(0)
    group = row % GROUPS
    c = tl.arange(0, BLOCK)
    mask = c < cols
    x = tl.load(x_ptr + row * cols + c, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * cols + c, mask=mask, other=0.0).to(tl.float32)
    part = dy * (x - tl.load(mean_ptr + row)) * tl.load(rstd_ptr + row)
    while tl.atomic_cas(lock_ptr + group, 0, 1) == 1:
        pass
    if tl.load(count_ptr + group) == 0:
        tl.atomic_xchg(count_ptr + group, 1)
    else:
        part += tl.load(dw_ptr + group * cols + c, mask=mask)
    tl.store(dw_ptr + group * cols + c, part, mask=mask)
    tl.debug_barrier()
    tl.atomic_xchg(lock_ptr + group, 0)


@triton.jit
def combine(m, s, other_m, other_s):
    """Maxima and sums of exponentials relative to them, of two parts."""
    high = tl.maximum(m, other_m)
    return high, s * tl.exp(m - high) + other_s * tl.exp(other_m - high)


@triton.jit
def cross_entropy(logits_ptr, target_ptr, loss_ptr, cols, BLOCK: tl.constexpr):
    """-log softmax at the target, in one pass over the row."""
    row = tl.program_id(0)
    m, s = tl.full((BLOCK,), -float("inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + row * cols + c, mask=c < cols, other=-float("inf")).to(tl.float32)
        high = tl.maximum(m, x)
        s = s * tl.where(m == -float("inf"), 0.0, tl.exp(m - high)) + tl.where(x == -float("inf"), 0.0, tl.exp(x - high))
        m = high
    m, s = tl.reduce((m, s), 0, combine)
    at = tl.load(logits_ptr + row * cols + tl.load(target_ptr + row)).to(tl.float32)
    tl.store(loss_ptr + row, m + tl.log(s) - at)


@triton.jit
def reductions(
    x_ptr, sum_ptr, max_ptr, argmax_ptr, argmin_ptr, xor_ptr, ROWS: tl.constexpr, COLS: tl.constexpr, AXIS: tl.constexpr
):
    """Of a (ROWS, COLS) tensor along AXIS."""
    x = tl.load(x_ptr + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :])
    at = tl.arange(0, COLS if AXIS == 0 else ROWS)
    tl.store(sum_ptr + at, tl.sum(x.to(tl.float32), AXIS))
    tl.store(max_ptr + at, tl.max(x, AXIS))
    tl.store(argmax_ptr + at, tl.argmax(x, AXIS))
    tl.store(argmin_ptr + at, tl.argmin(x, AXIS))
    tl.store(xor_ptr + at, tl.xor_sum(x.to(tl.int32), AXIS))


@triton.jit
def linear_step(a, b, other_a, other_b):
    """First h -> a h + b, then h -> other_a h + other_b."""
    return a * other_a, other_a * b + other_b


@triton.jit
def scans(x_ptr, gate_ptr, sum_ptr, product_ptr, state_ptr, ROWS: tl.constexpr, COLS: tl.constexpr, REVERSE: tl.constexpr):
    """Along columns: running sums and products, and the recurrence h = gate h + x."""
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    x, gate = tl.load(x_ptr + at), tl.load(gate_ptr + at)
    tl.store(sum_ptr + at, tl.cumsum(x, 1, reverse=REVERSE))
    tl.store(product_ptr + at, tl.cumprod(gate, 1, reverse=REVERSE))
    _, state = tl.associative_scan((gate, x), 1, linear_step, reverse=REVERSE)
    tl.store(state_ptr + at, state)


@triton.jit
def sorting(x_ptr, sorted_ptr, top_ptr, flipped_ptr, ROWS: tl.constexpr, COLS: tl.constexpr, TOP: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(sorted_ptr + at, tl.sort(x))
    tl.store(top_ptr + tl.arange(0, ROWS)[:, None] * TOP + tl.arange(0, TOP)[None, :], tl.topk(x, TOP))
    tl.store(flipped_ptr + at, tl.flip(x, 1))


@triton.jit
def shuffles(x_ptr, index_ptr, gathered_ptr, joined_ptr, reshaped_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Data that changes owners: gather along rows, join with a neighbour, a transpose of three dimensions."""
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    x, index = tl.load(x_ptr + at), tl.load(index_ptr + at)
    tl.store(gathered_ptr + at, tl.gather(x, index, 0))
    even, odd = tl.split(tl.reshape(x, (ROWS, COLS // 2, 2)))
    tl.store(joined_ptr + at, tl.reshape(tl.join(odd, even), (ROWS, COLS)))
    turned = tl.permute(tl.reshape(x, (ROWS, COLS // 8, 8)), (2, 0, 1))
    tl.store(reshaped_ptr + tl.arange(0, ROWS * COLS), tl.reshape(turned, (ROWS * COLS,)))


@triton.jit
def histogram(x_ptr, out_ptr, shared_out_ptr, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """tl.histogram of a block, added to one for all programs; and one atomic for each element."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.atomic_add(out_ptr + tl.arange(0, BINS), tl.histogram(x, BINS, mask=i < n))
    tl.atomic_add(shared_out_ptr + x, 1, mask=i < n)


@triton.jit
def atomics(x_ptr, index_ptr, add_ptr, max_ptr, min_ptr, or_ptr, n, BLOCK: tl.constexpr):
    """Scatter: atomics of many elements to few places."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x, at = tl.load(x_ptr + i, mask=mask, other=0.0), tl.load(index_ptr + i, mask=mask, other=0)
    tl.atomic_add(add_ptr + at, x, mask=mask)
    tl.atomic_max(max_ptr + at, x.to(tl.float32), mask=mask)
    tl.atomic_min(min_ptr + at, (x * 100).to(tl.int32), mask=mask)
    tl.atomic_or(or_ptr + at, 1 << (i % 31), mask=mask)


@triton.jit
def casts(x_ptr, e4m3_ptr, e5m2_ptr, bf16_ptr, fp16_ptr, int8_ptr, back_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x = tl.load(x_ptr + i, mask=mask).to(tl.float32)
    if e4m3_ptr is not None:
        tl.store(e4m3_ptr + i, x.to(tl.float8e4nv), mask=mask)
    e5m2 = x.to(tl.float8e5)
    tl.store(e5m2_ptr + i, e5m2, mask=mask)
    tl.store(bf16_ptr + i, x.to(tl.bfloat16), mask=mask)
    tl.store(fp16_ptr + i, x.to(tl.float16), mask=mask)
    tl.store(int8_ptr + i, tl.clamp(x, -128.0, 127.0).to(tl.int8), mask=mask)
    tl.store(back_ptr + i, e5m2.to(tl.float32), mask=mask)


@triton.jit
def quantize_blocks(x_ptr, q_ptr, scale_ptr, cols, BLOCK: tl.constexpr):
    """One scale for each block of a row: amax / 448, and E4M3 codes."""
    row, block = tl.program_id(0), tl.program_id(1)
    c = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(tl.abs(x), 0), 1e-12)
    tl.store(scale_ptr + row * tl.num_programs(1) + block, most / 448.0)
    tl.store(q_ptr + row * cols + c, (x * (448.0 / most)).to(q_ptr.dtype.element_ty), mask=c < cols)


@triton.jit
def dropout(x_ptr, out_ptr, bits_ptr, n, p, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    keep = tl.rand(seed, i) > p
    tl.store(bits_ptr + i, tl.randint(seed, i), mask=mask)
    tl.store(out_ptr + i, tl.where(keep, tl.load(x_ptr + i, mask=mask) / (1 - p), 0.0), mask=mask)


@triton.jit
def transpose(x_ptr, out_ptr, rows, cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    r, c = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + r[:, None] * cols + c[None, :], mask=inside)
    tl.store(out_ptr + c[:, None] * rows + r[None, :], tl.trans(x), mask=(c[:, None] < cols) & (r[None, :] < rows))


@triton.jit
def functions(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Elementary functions, summed: exp, log, sqrt, sin, erf, tanh by exponentials."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0)
    y = tl.exp(x) + tl.log(tl.abs(x) + 1) + tl.sqrt(tl.abs(x)) + tl.sin(x) + tl.cos(x) + tl.erf(x) + tl.sigmoid(x)
    tl.store(out_ptr + i, y + tl.exp2(x) + tl.log2(tl.abs(x) + 1) + tl.floor(x) + tl.ceil(x), mask=i < n)
