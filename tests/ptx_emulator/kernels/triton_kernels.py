"""Triton kernels for the emulator's tests. Imported only where Triton is."""

import triton
import triton.language as tl


@triton.jit
def matmul(
    a_ptr, b_ptr, out_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # out (M, N) = a (M, K) . b (N, K)^T
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * K + depth[None, :]
    b_ptrs = b_ptr + cols[None, :] * K + depth[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        inside = depth < K - k * BLOCK_K
        x = tl.load(a_ptrs, mask=(rows[:, None] < M) & inside[None, :], other=0.0)
        y = tl.load(b_ptrs, mask=(cols[None, :] < N) & inside[:, None], other=0.0)
        acc = tl.dot(x, y, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc.to(tl.bfloat16), mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def matmul_of_strides(a_ptr, b_ptr, out_ptr, K, am, ak, bk, bn, TWICE: tl.constexpr, BLOCK: tl.constexpr):
    """One BLOCK x BLOCK tile of a . b in any layout; TWICE doubles a on its way, which brings it to registers."""
    i, depth = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        x = tl.load(a_ptr + i[:, None] * am + (k + depth)[None, :] * ak)
        y = tl.load(b_ptr + (k + depth)[:, None] * bk + i[None, :] * bn)
        acc = tl.dot((x * 2).to(x.dtype) if TWICE else x, y, acc)
    tl.store(out_ptr + i[:, None] * BLOCK + i[None, :], acc)


@triton.jit
def quantize_transpose(x_ptr, quant_scale_ptr, q_ptr, q_t_ptr, rows, cols, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + r[:, None] * cols + c[None, :], mask=inside, other=0.0).to(tl.float32)
    q = (x * tl.load(quant_scale_ptr)).to(tl.float8e4nv)
    tl.store(q_ptr + r[:, None] * cols + c[None, :], q, mask=inside)
    tl.store(q_t_ptr + c[:, None] * rows + r[None, :], tl.trans(q), mask=(c[:, None] < cols) & (r[None, :] < rows))


@triton.jit
def softmax(x_ptr, out_ptr, cols, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.program_id(0) * cols + c, mask=c < cols, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, 0))
    tl.store(out_ptr + tl.program_id(0) * cols + c, (e / tl.sum(e, 0)).to(out_ptr.dtype.element_ty), mask=c < cols)


@triton.jit
def amax(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_max(out_ptr, tl.max(tl.abs(tl.load(x_ptr + i, mask=i < n, other=0.0).to(tl.float32)), 0))


@triton.jit
def cumulative(x_ptr, out_ptr, hist_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.store(out_ptr + i, tl.cumsum(x, 0), mask=i < n)
    tl.atomic_add(hist_ptr + x % 8, 1, mask=i < n)


@triton.jit
def copy_by_host_descriptors(x_desc, y_desc, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    i, j = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    y_desc.store([i, j], x_desc.load([i, j]))


@triton.jit
def copy_by_device_descriptors(x_ptr, y_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    x_desc = tl.make_tensor_descriptor(x_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])
    y_desc = tl.make_tensor_descriptor(y_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])
    for i in range(tl.program_id(0) * BLOCK_M, M, tl.num_programs(0) * BLOCK_M):
        j = tl.program_id(1) * BLOCK_N
        y_desc.store([i, j], x_desc.load([i, j]))


@triton.jit
def scale_of_many(pair, factor, shift, stride, flag: tl.constexpr, BLOCK: tl.constexpr):
    """Tuples, a float, an integer that may be 1, a bool."""
    x_ptr, out_ptr = pair
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at * stride)
    tl.store(out_ptr + at, (x + shift) * factor if flag else x)


@triton.jit
def reduce_by_descriptors(x_desc, y_desc, BLOCK: tl.constexpr, OPERATION: tl.constexpr):
    """Every program reduces its tile of x into the one tile of y."""
    x = x_desc.load([tl.program_id(0) * BLOCK, 0])
    if OPERATION == "add":
        y_desc.atomic_add([0, 0], x)
    elif OPERATION == "min":
        y_desc.atomic_min([0, 0], x)
    elif OPERATION == "max":
        y_desc.atomic_max([0, 0], x)
    else:
        y_desc.atomic_xor([0, 0], x)


@triton.jit
def gather_by_descriptors(x_desc, y_desc, rows_ptr, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """y[rows + 1, :] = x[rows, 16:]: gathers and scatters rows."""
    rows = tl.load(rows_ptr + tl.arange(0, COUNT))
    y_desc.scatter(x_desc.gather(rows, 16), rows + 1, 0)


@triton.jit
def scaled_matmul(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    A_FORMAT: tl.constexpr, B_FORMAT: tl.constexpr, VECTOR: tl.constexpr,
):  # out (M, N) = (a * scales) (M, K) . (b * scales) (N, K)^T; two e2m1 share a byte, VECTOR elements share a scale  # fmt: skip
    A_PACK: tl.constexpr = 2 if A_FORMAT == "e2m1" else 1
    B_PACK: tl.constexpr = 2 if B_FORMAT == "e2m1" else 1
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    a_depth, b_depth = tl.arange(0, BLOCK_K // A_PACK), tl.arange(0, BLOCK_K // B_PACK)
    blocks = tl.arange(0, BLOCK_K // VECTOR)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        x = tl.load(a_ptr + rows[:, None] * (K // A_PACK) + (a_depth + k * (BLOCK_K // A_PACK))[None, :])
        y = tl.load(b_ptr + cols[None, :] * (K // B_PACK) + (b_depth + k * (BLOCK_K // B_PACK))[:, None])
        x_scale = tl.load(a_scale_ptr + rows[:, None] * (K // VECTOR) + (blocks + k * (BLOCK_K // VECTOR))[None, :])
        y_scale = tl.load(b_scale_ptr + cols[:, None] * (K // VECTOR) + (blocks + k * (BLOCK_K // VECTOR))[None, :])
        acc = tl.dot_scaled(x, x_scale, A_FORMAT, y, y_scale, B_FORMAT, acc)
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc)


@triton.jit
def matmul_by_descriptors(
    a_desc, b_desc, out_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # out (M, N) = a (M, K) . b (N, K)^T, persistent
    across = tl.cdiv(N, BLOCK_N)
    for tile in range(tl.program_id(0), tl.cdiv(M, BLOCK_M) * across, tl.num_programs(0)):
        row, col = tile // across * BLOCK_M, tile % across * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            acc = tl.dot(a_desc.load([row, k]), b_desc.load([col, k]).T, acc)
        rows, cols = row + tl.arange(0, BLOCK_M), col + tl.arange(0, BLOCK_N)
        inside = (rows[:, None] < M) & (cols[None, :] < N)
        tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc.to(tl.bfloat16), mask=inside)


@triton.jit
def two_matmuls(a_ptr, b_ptr, c_ptr, out_ptr, COUNT, M: tl.constexpr, N: tl.constexpr, HALF: tl.constexpr):
    """What one product gives enters the next: out (M, N) = sum of 2^(COUNT - 1 - i) * half(a . b_i^T) . c_i over i."""
    rows, cols = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(a_ptr + rows[:, None] * N + cols[None, :])
    acc_type: tl.constexpr = tl.float16 if HALF else tl.float32
    acc = tl.zeros((M, N), acc_type)
    for i in range(0, COUNT):
        b = tl.load(b_ptr + i * N * N + cols[None, :] * N + cols[:, None])
        p = tl.dot(a, b).to(tl.float16)
        c = tl.load(c_ptr + i * N * N + cols[:, None] * N + cols[None, :])
        acc = tl.dot(p, c, (acc * 2).to(acc_type), out_dtype=acc_type)
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc.to(tl.float32))


@triton.jit
def matmul_by_host_descriptors(a_desc, b_desc, out_desc, K, BLOCK: tl.constexpr, SPECIALIZE: tl.constexpr):
    i, j = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in tl.range(0, tl.cdiv(K, BLOCK), warp_specialize=SPECIALIZE):
        acc = tl.dot(a_desc.load([i, k * BLOCK]), b_desc.load([j, k * BLOCK]).T, acc)
    out_desc.store([i, j], acc.to(tl.bfloat16))


@triton.jit
def scaled_matmul_by_descriptors(
    a_desc, a_scale_desc, b_desc, b_scale_desc, out_desc, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Scales come in the order of tcgen05.cp: (1, rows / 128, K / 128, 2, 256) bytes, of 32 x 4 x 4 for 128 rows and 4 scales."""
    i, j = tl.program_id(0), tl.program_id(1)
    M_TILES: tl.constexpr = BLOCK_M // 128
    N_TILES: tl.constexpr = BLOCK_N // 128
    K_TILES: tl.constexpr = BLOCK_K // 128
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        a = a_desc.load([i * BLOCK_M, k * BLOCK_K])
        b = b_desc.load([j * BLOCK_N, k * BLOCK_K])
        x = a_scale_desc.load([0, i * M_TILES, k * K_TILES, 0, 0]).reshape(M_TILES, K_TILES, 32, 4, 4)
        y = b_scale_desc.load([0, j * N_TILES, k * K_TILES, 0, 0]).reshape(N_TILES, K_TILES, 32, 4, 4)
        x = x.trans(0, 3, 2, 1, 4).reshape(BLOCK_M, BLOCK_K // 32)
        y = y.trans(0, 3, 2, 1, 4).reshape(BLOCK_N, BLOCK_K // 32)
        acc = tl.dot_scaled(a, x, "e4m3", b.T, y, "e4m3", acc)
    out_desc.store([i * BLOCK_M, j * BLOCK_N], acc)


@triton.jit
def matmul_of_turned_descriptors(a_desc, b_desc, out_ptr, K, A_TURNED: tl.constexpr, B_TURNED: tl.constexpr, BLOCK: tl.constexpr):
    """One BLOCK x BLOCK tile; a turned operand lies in memory as (K, BLOCK)."""
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        a = a_desc.load([k, 0]).T if A_TURNED else a_desc.load([0, k])
        b = b_desc.load([k, 0]) if B_TURNED else b_desc.load([0, k]).T
        acc = tl.dot(a, b, acc)
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i[:, None] * BLOCK + i[None, :], acc)


@triton.jit
def transposed_product(a_ptr, b_ptr, out_desc, BLOCK: tl.constexpr):
    """Out = fp8(a . b^T)^T"""
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i[:, None] * BLOCK + i[None, :])
    b = tl.load(b_ptr + i[None, :] * BLOCK + i[:, None])
    out_desc.store([0, 0], tl.dot(a, b).to(tl.float8e4nv).T)


@triton.jit
def persistent_matmul(a_desc, b_desc, out_desc, M, N, K, BLOCK: tl.constexpr, SPECIALIZE: tl.constexpr):
    across = tl.cdiv(N, BLOCK)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BLOCK) * across, tl.num_programs(0), warp_specialize=SPECIALIZE):
        i, j = tile // across * BLOCK, tile % across * BLOCK
        acc = tl.zeros((BLOCK, BLOCK), tl.float32)
        for k in range(0, K, BLOCK):
            acc = tl.dot(a_desc.load([i, k]), b_desc.load([j, k]).T, acc)
        out_desc.store([i, j], acc.to(tl.bfloat16))
