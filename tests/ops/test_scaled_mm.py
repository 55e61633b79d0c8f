"""scaled_mm: contract in mpkernels/ops/scaled_mm/__init__.py."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mpkernels as mp
from mpkernels import native
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES, format_of
from mpkernels.layout import new_fp8_matrix
from mpkernels.testing import TensorCore, all_codes, assert_matches, bits_of, reduction, tensor_core_of, to_float64

E4M3, E5M2 = FP8_DTYPES
PROT_NONE = 0  # of mprotect(2); Python's mmap module does not name it
PAIRS = tuple(itertools.product(FP8_DTYPES, FP8_DTYPES))

# Every path of the CPU kernels and its edges: skinny on either side, narrow (16) and wide (32) panels on either side, one and
# several panels and blocks in each dimension, several stretches of K with sums waiting in between; primes; nothing at all.
SHAPES = (
    (1, 1, 1),
    (1, 17, 3),
    (2, 130, 64),
    (3, 5, 7),
    (5, 70, 65),
    (8, 9, 129),
    (31, 8, 300),
    (70, 1, 257),
    (16, 16, 16),
    (13, 61, 600),
    (40, 13, 97),
    (61, 67, 1031),
    (65, 33, 515),
    (131, 127, 61),
    (530, 30, 31),
    (0, 3, 4),
    (3, 0, 4),
    (0, 0, 0),
    (3, 4, 0),
    (20, 40, 0),
)
LARGE_SHAPES = ((30, 530, 1100), (520, 540, 1090))
SMALL_SHAPES = ((1, 7, 33), (7, 1, 33), (9, 40, 70), (70, 20, 70), (3, 4, 0))

pairs = pytest.mark.parametrize(("dtype_a", "dtype_b"), PAIRS, ids=lambda d: str(d).removeprefix("torch.float8_"))
out_dtypes = pytest.mark.parametrize("out_dtype", HIGH_PRECISION_DTYPES, ids=str)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These products are too small to share, and waiting for threads is what the tests would spend their time on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_fp8(*shape: int, dtype: torch.dtype, seed: int, device: str = "cpu") -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)


def scales(device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(0.37, device=device), torch.tensor(1.9, device=device)


def exact_value(a, b, scale_a, scale_b, bias=None, out=None, core=None):
    """The formula in float64, and the magnitude that `reduction_bound` wants: tensor cores align subnormals as normals."""
    scale = to_float64(scale_a) * to_float64(scale_b)
    sizes = [to_float64(x).abs() for x in (a, b)]
    if core is not None:
        sizes = [x.clamp(min=format_of(t.dtype).smallest_normal) * (x != 0) for x, t in zip(sizes, (a, b), strict=True)]
    expected, magnitude = to_float64(a) @ to_float64(b).t() * scale, sizes[0] @ sizes[1].t() * scale.abs()
    for term in (bias, out):
        if term is not None:
            expected, magnitude = expected + to_float64(term), magnitude + to_float64(term).abs()
    return expected, magnitude


def core_of(result: torch.Tensor) -> TensorCore | None:
    """What summed: tensor cores on an NVIDIA GPU."""
    return tensor_core_of(native.cuda_architecture(result)) if result.is_cuda and torch.version.hip is None else None


def assert_is_product(result, a, b, scale_a, scale_b, bias=None, out=None, *, core=None, fast=False):
    core = core or core_of(result)
    expected, magnitude = exact_value(a, b, scale_a, scale_b, bias, out, core)
    assert_matches(result, expected, reduction(a.shape[1], core, fast=fast), magnitude=magnitude)


def check_shape(shape: tuple[int, int, int], backend: str, device: str) -> None:
    M, N, K = shape
    a, b = random_fp8(M, K, dtype=E4M3, seed=1, device=device), random_fp8(N, K, dtype=E5M2, seed=2, device=device)
    bias = torch.randn(N, device=device)
    for out_dtype in (torch.float32, torch.bfloat16):
        result = mp.scaled_mm(a, b, *scales(device), bias=bias, out_dtype=out_dtype, backend=backend)
        assert result.dtype is out_dtype
        assert_is_product(result, a, b, *scales(device), bias)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(backend, device, shape):
    check_shape(shape, backend, device)


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_large_shapes(backend, device, shape, not_emulated):
    check_shape(shape, backend, device)


@pytest.mark.parametrize("K", [40, 300])
def test_fast_accumulation(backend, device, K):
    a, b = random_fp8(40, K, dtype=E4M3, seed=20, device=device), random_fp8(37, K, dtype=E5M2, seed=21, device=device)
    result = mp.scaled_mm(a, b, *scales(device), out_dtype=torch.float32, use_fast_accum=True, backend=backend)
    assert_is_product(result, a, b, *scales(device), fast=True)


@pytest.mark.spread
@pairs
@out_dtypes
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
def test_formats_bias_and_accumulation(backend, device, dtype_a, dtype_b, out_dtype, shape):
    M, N, K = shape
    a, b = random_fp8(M, K, dtype=dtype_a, seed=3, device=device), random_fp8(N, K, dtype=dtype_b, seed=4, device=device)
    for bias_dtype in (None, *HIGH_PRECISION_DTYPES):
        bias = None if bias_dtype is None else torch.randn(N, device=device).to(bias_dtype)
        assert_is_product(mp.scaled_mm(a, b, *scales(device), bias=bias, out_dtype=out_dtype, backend=backend), a, b,
                          *scales(device), bias)  # fmt: skip
        before = torch.randn(M, N, device=device).to(out_dtype)
        out = before.clone()
        assert mp.scaled_mm(a, b, *scales(device), bias=bias, out=out, accumulate=True, backend=backend) is out
        assert_is_product(out, a, b, *scales(device), bias, before)


def test_every_pair_of_codes(backend, device):
    """A one-term sum is the exact product, for all 4 x 2^16 pairs: no subnormal is flushed, Inf and NaN behave as in IEEE 754."""
    for dtype_a, dtype_b in PAIRS:
        a, b = all_codes(dtype_a).view(-1, 1).to(device), all_codes(dtype_b).view(-1, 1).to(device)
        one = torch.ones((), device=device)
        result = mp.scaled_mm(a, b, one, one, out_dtype=torch.float32, backend=backend)
        expected = a.float() @ torch.ones(1, 1, device=device) * b.float().t()
        assert ((result == expected) | (result.isnan() & expected.isnan())).all(), (dtype_a, dtype_b)


@pytest.mark.spread
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("code", [0x7F, 0xFF, 0x7C, 0xFC, 0x7E], ids=hex)
@pytest.mark.parametrize("shape", [(1, 40, 70), (40, 3, 70), (12, 40, 1100), (70, 40, 70)], ids=str)
def test_nan_and_inf_reach_their_row_and_no_other(backend, device, side, code, shape):
    M, N, K = shape
    for dtype in FP8_DTYPES:
        a, b = torch.ones(M, K).to(dtype), torch.ones(N, K).to(dtype)
        x = a if side == "a" else b
        row = x.shape[0] // 2
        x.view(torch.uint8)[row, K - 1] = code
        one = torch.ones((), device=device)
        result = mp.scaled_mm(a.to(device), b.to(device), one, one, out_dtype=torch.float32, backend=backend).cpu()
        expected = torch.full((M, N), float(K))
        value = x[row, K - 1].float() + (K - 1)
        (expected if side == "a" else expected.t())[row] = value
        assert_matches(result, expected)


@pytest.mark.spread
@out_dtypes
@pytest.mark.parametrize("shape", [(4, 50, 300), (64, 70, 300), (100, 90, 300), (30, 5, 300)], ids=str)
def test_exact_on_small_integers(backend, device, out_dtype, shape):
    """Sums of small integers are exact in FP32 in any order, so the only rounding left is the last one."""
    M, N, K = shape
    generator = torch.Generator().manual_seed(5)
    a = torch.randint(-4, 5, (M, K), generator=generator).float().to(E4M3).to(device)
    b = torch.randint(-4, 5, (N, K), generator=generator).float().to(E5M2).to(device)
    bias = torch.randint(-100, 100, (N,), generator=generator).to(out_dtype).to(device)
    before = torch.randint(-100, 100, (M, N), generator=generator).to(out_dtype).to(device)
    half, four = torch.tensor(0.5, device=device), torch.tensor(4.0, device=device)
    expected = (to_float64(a) @ to_float64(b).t() * 2 + to_float64(bias) + to_float64(before)).to(out_dtype)
    out = before.clone()
    mp.scaled_mm(a, b, half, four, bias=bias, out=out, accumulate=True, backend=backend)
    assert_matches(out, expected)


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 50, 40), (40, 50, 40)], ids=str)
def test_rounds_once(backend, device, out_dtype, shape):
    """The 16-bit result is the FP32 result rounded, ties to even: nothing is rounded to 16 bits on the way."""
    M, N, K = shape
    a, b = random_fp8(M, K, dtype=E4M3, seed=6, device=device), random_fp8(N, K, dtype=E4M3, seed=7, device=device)
    bias = torch.randn(N, device=device)
    before = torch.randn(M, N, device=device).to(out_dtype)
    narrow, wide = before.clone(), before.float()
    mp.scaled_mm(a, b, *scales(device), bias=bias, out=narrow, accumulate=True, backend=backend)
    mp.scaled_mm(a, b, *scales(device), bias=bias, out=wide, accumulate=True, out_dtype=torch.float32, backend=backend)
    assert_matches(narrow, wide.to(out_dtype))


def test_epilogue_keeps_the_order_of_the_formula(backend, device):
    a = torch.ones(3, 1).to(E4M3).to(device)
    b, one, tiny = torch.ones(20, 1).to(E4M3).to(device), torch.ones((), device=device), torch.tensor(2.0**-80, device=device)
    for N in (20, 19):
        bias, out = torch.full((N,), 2.0**-24, device=device), torch.full((3, N), -1.0, device=device)
        mp.scaled_mm(a, b[:N], one, one, bias=bias, out=out, accumulate=True, backend=backend)
        assert (out == 0).all(), "(1 + 2^-24) - 1 in FP32: the bias comes before out"
    result = mp.scaled_mm(a, b, tiny, tiny, out_dtype=torch.float32, backend=backend)
    assert (result == 0).all(), "2^-80 * 2^-80 underflows: the scales are multiplied first"
    huge = torch.tensor(2.0**100, device=device)
    result = mp.scaled_mm(a, b, tiny, huge, out_dtype=torch.float32, backend=backend)
    assert (result == 2.0**20).all()


def test_the_bound_catches_a_product_in_bf16():
    """What most people write instead, a bf16 matmul scaled afterwards, rounds twice and breaks the bound."""
    a, b = random_fp8(64, 256, dtype=E4M3, seed=8), random_fp8(64, 256, dtype=E4M3, seed=9)
    scale_a, scale_b = scales()
    shortcut = (a.bfloat16() @ b.bfloat16().t()) * (scale_a * scale_b).bfloat16()
    with pytest.raises(AssertionError, match="break reduction"):
        assert_is_product(shortcut, a, b, scale_a, scale_b)
    assert_is_product(mp.scaled_mm(a, b, scale_a, scale_b), a, b, scale_a, scale_b)


def test_large_k(backend, device, not_emulated):
    for M, N, K in ((2, 40, 100_000), (20, 40, 40_000), (70, 80, 20_000)):
        a, b = random_fp8(M, K, dtype=E4M3, seed=10, device=device), random_fp8(N, K, dtype=E4M3, seed=11, device=device)
        assert_is_product(mp.scaled_mm(a, b, *scales(device), out_dtype=torch.float32, backend=backend), a, b, *scales(device))


def test_no_bias_keeps_negative_zero(backend, device):
    a, b = torch.tensor([[-1.0]]).to(E4M3).to(device), torch.tensor([[1.0]]).to(E4M3).to(device)
    tiny = torch.tensor(1e-40, device=device)
    result = mp.scaled_mm(a, b, tiny, torch.ones((), device=device), out_dtype=torch.float16, backend=backend)
    assert bits_of(result).item() == -(2**15)


def test_overflow_gives_inf(backend, device):
    a = torch.full((3, 2), 448.0).to(E4M3).to(device)
    one = torch.ones((), device=device)
    assert mp.scaled_mm(a, (-a.float()).to(E4M3), one, one, out_dtype=torch.float16, backend=backend).isneginf().all()


def test_same_bytes_every_time_and_with_any_number_of_threads(backend, device, not_emulated):
    if backend == "reference":
        pytest.skip("the float64 matmul is not promised to give the same bytes with other numbers of threads")
    for M, N, K in ((3, 3000, 500), (20, 3000, 500), (300, 500, 1100), (1100, 40, 1100)):
        a, b = random_fp8(M, K, dtype=E4M3, seed=12, device=device), random_fp8(N, K, dtype=E5M2, seed=13, device=device)
        results = []
        for threads in (1, 2, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(mp.scaled_mm(a, b, *scales(device), out_dtype=torch.float32, backend=backend))
        for result in results[1:]:
            assert_matches(result, results[0])


@pytest.mark.parametrize("shape", [(5, 37, 70), (40, 37, 70), (37, 5, 70), (20, 1, 1)], ids=str)
def test_strides_of_the_operands(backend, device, shape, thinned):
    M, N, K = shape

    def views(rows: int, seed: int):
        yield random_fp8(rows, K + 5, dtype=E4M3, seed=seed, device=device)[:, 3 : 3 + K]
        yield random_fp8(2 * rows, -(-K // 16) * 16, dtype=E4M3, seed=seed, device=device)[::2, :K]
        yield random_fp8(1, K, dtype=E4M3, seed=seed, device=device).expand(rows, K)
        yield random_fp8(rows * K + 1, dtype=E4M3, seed=seed, device=device)[1:].view(rows, K)

    bias = torch.randn(2 * N, device=device)[::2]
    for a, b in thinned(list(zip(views(M, 14), views(N, 15), strict=True)), 2):
        expected = mp.scaled_mm(a.contiguous(), b.contiguous(), *scales(device), bias=bias.contiguous(), backend=backend)
        assert_matches(mp.scaled_mm(a, b, *scales(device), bias=bias, backend=backend), expected)


@pytest.mark.parametrize("name", ["a", "b"])
def test_refuses_operands_that_are_not_adjacent_along_k(backend, device, name):
    good = random_fp8(6, 20, dtype=E4M3, seed=20, device=device)
    bad = {
        r"\(1, 6\)": random_fp8(20, 6, dtype=E4M3, seed=20, device=device).t(),
        r"\(40, 2\)": random_fp8(6, 40, dtype=E4M3, seed=20, device=device)[:, ::2],
        r"\(1, 0\)": random_fp8(6, 1, dtype=E4M3, seed=20, device=device).expand(6, 20),
    }
    out = torch.full((6, 6), 7.0, device=device)
    for strides, view in bad.items():
        operands = {"a": good, "b": good, name: view}
        wanted = rf"{name} must have adjacent elements along K, .*got strides {strides}; "
        wanted += rf"pass q_t of quantize\(.*, or {name}.contiguous\(\)"
        for into in (None, out):
            with pytest.raises(ValueError, match=wanted):
                mp.scaled_mm(*operands.values(), *scales(device), out=into, backend=backend)
    assert (out == 7).all()


def given_to_kernels(backend: str, call: Callable[[], object]) -> bytes:
    """The parameters of an emulated backend's last launch: for CUDA as they are, for Triton the addresses of its tensors."""
    if backend == "cuda":
        call()
        return native.cuda.launches[-1].params
    from mpkernels import triton_launch

    launcher = triton_launch._launcher
    noted: list[int] = []

    class Noting(type(launcher)):
        def launch(self, launch):
            noted.extend(getattr(each, "base", each).data_ptr() for each in launch.args if not isinstance(each, int | None))
            super().launch(launch)

    with triton_launch.using(Noting(**vars(launcher))):
        call()
    return b"".join(address.to_bytes(8, "little") for address in noted)


@pytest.mark.parametrize("shape", [(5, 37, 70), (40, 37, 130), (1, 70, 33), (37, 1, 1)], ids=str)
def test_reads_padded_rows_in_place(backend, device, shape, request):
    """As `quantize` makes them, whatever K is, and never the padding: it is NaN here."""
    M, N, K = shape
    a, b = (new_fp8_matrix(torch.zeros((), device=device), rows, K, E4M3) for rows in (M, N))
    for seed, x in enumerate((a, b)):
        x.untyped_storage().fill_(0x7F)
        x.copy_(random_fp8(*x.shape, dtype=E4M3, seed=seed, device=device))
    results = []

    def multiply() -> None:
        results.append(mp.scaled_mm(a, b, *scales(device), out_dtype=torch.float32, backend=backend))

    if "emulated" in request.node.callspec.params["backend"]:
        given = given_to_kernels(backend, multiply)
        assert all(x.data_ptr().to_bytes(8, "little") in given for x in (a, b))
    else:
        multiply()
    assert_is_product(results[0], a, b, *scales(device))


@pytest.mark.spread
@out_dtypes
@pytest.mark.parametrize("shape", [(5, 37, 70), (40, 37, 70), (37, 5, 70), (1, 1, 1)], ids=str)
def test_out_with_a_pitch_leaves_its_surroundings_alone(backend, device, out_dtype, shape):
    M, N, K = shape
    a, b = random_fp8(M, K, dtype=E4M3, seed=16, device=device), random_fp8(N, K, dtype=E4M3, seed=17, device=device)
    around = torch.full((M + 2, N + 5), 7.0, dtype=out_dtype, device=device)
    out = around[1 : M + 1, 2 : N + 2]
    expected = mp.scaled_mm(a, b, *scales(device), out_dtype=out_dtype, backend=backend)
    assert mp.scaled_mm(a, b, *scales(device), out=out, backend=backend) is out
    assert_matches(out, expected)
    out.fill_(7.0)
    assert (around == 7.0).all()


def test_out_may_share_a_storage_if_it_does_not_overlap(backend, device):
    workspace = torch.zeros(4096, dtype=torch.uint8, device=device)
    a = workspace[:64].view(E4M3).view(4, 16)
    b = workspace[64:128].view(E4M3).view(4, 16)
    out = workspace[128:192].view(torch.float32).view(4, 4)
    a.copy_(torch.ones(4, 16)), b.copy_(torch.ones(4, 16))
    one = torch.ones((), device=device)
    assert (mp.scaled_mm(a, b, one, one, out=out, backend=backend) == 16).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_reads_nothing_beyond_the_operands(backend, device, thinned):
    """The operands end where an unreadable page begins: reading one byte too many kills the process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def at_the_end_of_memory(x: torch.Tensor) -> torch.Tensor:
        size = -(-x.numel() // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = torch.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), dtype=torch.uint8)
        unreadable = ctypes.c_void_p(memory.data_ptr() + size)
        assert libc.mprotect(unreadable, ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE) == 0
        memory[size - x.numel() : size] = x.reshape(-1).view(torch.uint8)
        return memory[size - x.numel() : size].view(x.dtype).view(x.shape)

    shapes = ((1, 3, 5), (2, 7, 70), (6, 13, 65), (30, 7, 70), (15, 33, 70), (40, 50, 33), (70, 33, 33), (17, 40, 1030))
    for M, N, K in thinned(shapes, 4):
        a, b = random_fp8(M, K, dtype=E4M3, seed=18), random_fp8(N, K, dtype=E4M3, seed=19)
        expected = mp.scaled_mm(a, b, *scales(), backend=backend)
        a, b = at_the_end_of_memory(a).to(device), at_the_end_of_memory(b).to(device)
        assert_matches(mp.scaled_mm(a, b, *scales(device), backend=backend), expected)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(0, 160)),
    dtypes=st.sampled_from(PAIRS),
    out_dtype=st.sampled_from(HIGH_PRECISION_DTYPES),
    bias_dtype=st.sampled_from((None, *HIGH_PRECISION_DTYPES)),
    exponents=st.tuples(st.integers(-20, 6), st.integers(-20, 6)),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_codes(shape, dtypes, out_dtype, bias_dtype, exponents, seed):
    """All finite codes, uniformly, so that magnitudes spread over the whole format."""
    M, N, K = shape
    generator = torch.Generator().manual_seed(seed)
    operands = []
    for rows, dtype in zip((M, N), dtypes, strict=True):
        codes = torch.randint(0, 256, (rows, K), dtype=torch.uint8, generator=generator)
        finite = codes.view(dtype).float().isfinite()
        operands.append(torch.where(finite, codes, torch.zeros_like(codes)).view(dtype))
    scale_a, scale_b = (torch.tensor(2.0**e) for e in exponents)
    bias = None if bias_dtype is None else torch.randn(N, generator=generator).to(bias_dtype)
    result = mp.scaled_mm(*operands, scale_a, scale_b, bias=bias, out_dtype=out_dtype)
    assert_is_product(result, *operands, scale_a, scale_b, bias)


A, B, ONE = torch.ones(3, 16).to(E4M3), torch.ones(4, 16).to(E4M3), torch.ones(())


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, r"a must be one of torch.float8_e4m3fn, torch.float8_e5m2, got torch.float32", {"a": A.float()}),
        (TypeError, r"b must be one of .*, got torch.bfloat16", {"b": B.bfloat16()}),
        (ValueError, r"a must have shape \(M, K\), got \(1, 3, 16\)", {"a": A[None]}),
        (ValueError, r"b must have shape \(N, K\) with a's K = 16, got \(4, 8\)", {"b": B[:, :8]}),
        (ValueError, r"b must have shape \(N, K\) with a's K = 16, got \(16,\)", {"b": B[0]}),
        (TypeError, r"dequant_scale_a must be a float32 tensor of shape \(\), got .* \(1,\)", {"dequant_scale_a": ONE[None]}),
        (TypeError, r"dequant_scale_b must be a float32 tensor .*, got torch.float64", {"dequant_scale_b": ONE.double()}),
        (ValueError, r"b must be on cpu like the other arguments, got meta", {"b": B.to("meta")}),
        (ValueError, r"dequant_scale_b must be on cpu .*, got meta", {"dequant_scale_b": ONE.to("meta")}),
        (TypeError, r"bias must be one of .*, got torch.float64", {"bias": torch.ones(4).double()}),
        (ValueError, r"bias must have shape \(4,\), one value for each row of b, got \(3,\)", {"bias": torch.ones(3)}),
        (ValueError, r"bias must be on cpu .*, got meta", {"bias": torch.ones(4, device="meta")}),
        (TypeError, r"out_dtype must be one of .*, got torch.float64", {"out_dtype": torch.float64}),
        (ValueError, r"accumulate=True needs out", {"accumulate": True}),
        (TypeError, r"out must be one of .*, got torch.float64", {"out": torch.ones(3, 4).double()}),
        (TypeError, r"out_dtype must be out's dtype, torch.float32, got torch.float16",
         {"out": torch.ones(3, 4), "out_dtype": torch.float16}),
        (ValueError, r"out must have shape \(3, 4\), got \(4, 3\)", {"out": torch.ones(4, 3)}),
        (ValueError, r"out must be on cpu .*, got meta", {"out": torch.ones(3, 4, device="meta")}),
        (ValueError, r"out must be row-major, with strides \(>= 4, 1\), got \(1, 3\)", {"out": torch.ones(4, 3).t()}),
        (ValueError, r"out must be row-major, .* got \(0, 1\)", {"out": torch.ones(4).expand(3, 4)}),
    ],
)  # fmt: skip
def test_refusals(error, message, change):
    arguments = {"a": A, "b": B, "dequant_scale_a": ONE, "dequant_scale_b": ONE, **change}
    with pytest.raises(error, match=message):
        mp.scaled_mm(**arguments)


@pytest.mark.parametrize("name", ["a", "b", "bias"])
def test_refuses_to_overwrite_an_input(name):
    memory = torch.zeros(64)
    out = memory[:16].view(4, 4)
    arguments = {"a": A[:1].repeat(4, 1), "b": B, "bias": torch.zeros(4)}
    if name == "bias":
        arguments["bias"] = memory[12:16]
    else:
        arguments[name] = memory[15:31].view(E4M3).view(4, 16)
    with pytest.raises(ValueError, match=f"{name} must not overlap out: they share memory"):
        mp.scaled_mm(arguments["a"], arguments["b"], ONE, ONE, bias=arguments["bias"], out=out)
    assert (memory == 0).all()


def test_explain_takes_the_defaults():
    reasons = mp.explain("scaled_mm", A, B, ONE, ONE)
    assert reasons["reference"] is None
    assert mp.explain("scaled_mm_out", A, B, ONE, ONE, None, torch.ones(3, 4))["reference"] is None


def test_opcheck(backend, monkeypatch):
    def same(before: torch.Tensor, after: torch.Tensor, **_: object) -> bool:
        return bool((bits_of(before) == bits_of(after)).all())

    monkeypatch.setattr(torch, "allclose", same)  # opcheck compares inputs before and after, which fails on FP8 otherwise
    bias = torch.randn(4)
    torch.library.opcheck(torch.ops.mpkernels.scaled_mm.default, (A, B, ONE, ONE, torch.float32, bias), {"backend": backend})
    torch.library.opcheck(
        torch.ops.mpkernels.scaled_mm_out.default, (A, B, ONE, ONE, bias, torch.ones(3, 4), True), {"backend": backend}
    )


def test_compiles_to_one_graph():
    def step(x, weight, out):
        a, b = x.to(E4M3), weight.to(E4M3)
        y = mp.scaled_mm(a, b, ONE, ONE, bias=out[0], out_dtype=torch.float32)
        return mp.scaled_mm(a, b, ONE, ONE, out=out.clone(), accumulate=True) + y

    x, weight, out = torch.randn(5, 33), torch.randn(7, 33), torch.randn(5, 7)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_matches(compiled(x, weight, out), step(x, weight, out))
