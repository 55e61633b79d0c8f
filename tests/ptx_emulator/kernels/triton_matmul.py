"""Matrix products as Triton users write them. out (M, N) = a (M, K) . b (N, K)^T unless a kernel says otherwise."""

import triton
import triton.language as tl


@triton.jit
def tile_of(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Tiles in groups of GROUP rows, so that neighbours in time share operands in L2."""
    down, across = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = tile // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    return first + tile % (GROUP * across) % height, tile % (GROUP * across) // height


@triton.jit
def by_pointers(
    a_ptr, b_ptr, out_ptr, M, N, K, am, ak, bn, bk,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr = "tf32",
    IMPRECISE: tl.constexpr = None,
):  # any strides, any sizes  # fmt: skip
    i, j = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, 2)
    rows, cols, depth = i * BLOCK_M + tl.arange(0, BLOCK_M), j * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + (rows % M)[:, None] * am + depth[None, :] * ak
    b_ptrs = b_ptr + (cols % N)[None, :] * bn + depth[:, None] * bk
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32 if out_ptr.dtype.element_ty != tl.int32 else tl.int32)
    for k in range(0, K, BLOCK_K):
        x = tl.load(a_ptrs, mask=depth[None, :] < K - k, other=0.0)
        y = tl.load(b_ptrs, mask=depth[:, None] < K - k, other=0.0)
        acc = tl.dot(x, y, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE, out_dtype=acc.dtype)
        a_ptrs += BLOCK_K * ak
        b_ptrs += BLOCK_K * bk
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    tl.store(out_ptr + rows[:, None] * N + cols[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def split_depth(
    a_ptr, b_ptr, out_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr
):  # each of SPLIT programs adds its part of K to out by atomics
    part = tl.program_id(1)
    i, j = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, 2)
    rows, cols, depth = i * BLOCK_M + tl.arange(0, BLOCK_M), j * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(part * BLOCK_K, K, SPLIT * BLOCK_K):
        inside = depth < K - k
        x = tl.load(a_ptr + rows[:, None] * K + (k + depth)[None, :], mask=(rows[:, None] < M) & inside[None, :], other=0.0)
        y = tl.load(b_ptr + cols[None, :] * K + (k + depth)[:, None], mask=(cols[None, :] < N) & inside[:, None], other=0.0)
        acc = tl.dot(x, y, acc)
    tl.atomic_add(out_ptr + rows[:, None] * N + cols[None, :], acc, mask=(rows[:, None] < M) & (cols[None, :] < N), sem="relaxed")


@triton.jit
def by_descriptors(
    a_desc, b_desc, out_desc, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARP_SPECIALIZE: tl.constexpr = False,
):  # host descriptors; one tile for each program  # fmt: skip
    i, j = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, 2)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.range(0, K, BLOCK_K, warp_specialize=WARP_SPECIALIZE):
        acc = tl.dot(a_desc.load([i * BLOCK_M, k]), b_desc.load([j * BLOCK_N, k]).T, acc)
    out_desc.store([i * BLOCK_M, j * BLOCK_N], acc.to(out_desc.dtype))


@triton.jit
def persistent(
    a_desc, b_desc, out_desc, M, N, K, PROGRAMS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FLATTEN: tl.constexpr = True, WARP_SPECIALIZE: tl.constexpr = False,
):  # each program takes every PROGRAMS-th tile; FLATTEN makes one pipelined loop of the two  # fmt: skip
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=FLATTEN, warp_specialize=WARP_SPECIALIZE):
        i, j = tile_of(tile, M, N, BLOCK_M, BLOCK_N, 2)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, tl.cdiv(K, BLOCK_K)):
            acc = tl.dot(a_desc.load([i * BLOCK_M, k * BLOCK_K]), b_desc.load([j * BLOCK_N, k * BLOCK_K]).T, acc)
        out_desc.store([i * BLOCK_M, j * BLOCK_N], acc.to(out_desc.dtype))


@triton.jit
def by_device_descriptors(
    a_ptr, b_ptr, out_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # tensor maps made by the kernel in its scratch memory
    a_desc = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    b_desc = tl.make_tensor_descriptor(b_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    out_desc = tl.make_tensor_descriptor(out_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])
    i, j = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, 2)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        acc = tl.dot(a_desc.load([i * BLOCK_M, k]), b_desc.load([j * BLOCK_N, k]).T, acc)
    out_desc.store([i * BLOCK_M, j * BLOCK_N], acc.to(out_ptr.dtype.element_ty))


@triton.jit
def batched(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """A whole product for each program, with a, b (batch, M or N, K): dot of three dimensions, two batches at once."""
    batch = tl.program_id(0) * 2 + tl.arange(0, 2)[:, None, None]
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a_ptr + batch * M * K + m[None, :, None] * K + k[None, None, :])
    y = tl.load(b_ptr + batch * N * K + n[None, None, :] * K + k[None, :, None])
    tl.store(out_ptr + batch * M * N + m[None, :, None] * N + n[None, None, :], tl.dot(x, y))


@triton.jit
def quantized_weights(
    x_ptr, codes_ptr, scale_ptr, out_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # out = x . (int8 codes (N, K) * one scale a row)^T: the codes are widened on the way to the tensor cores
    rows, cols = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        x = tl.load(x_ptr + rows[:, None] * K + (k + depth)[None, :], mask=rows[:, None] < M, other=0.0)
        codes = tl.load(codes_ptr + cols[None, :] * K + (k + depth)[:, None], mask=cols[None, :] < N, other=0)
        acc = tl.dot(x, codes.to(x.dtype), acc)
    acc *= tl.load(scale_ptr + cols, mask=cols < N, other=0.0)[None, :]
    tl.store(
        out_ptr + rows[:, None] * N + cols[None, :],
        acc.to(x_ptr.dtype.element_ty),
        mask=(rows[:, None] < M) & (cols[None, :] < N),
    )
