"""quantize: contract in mpkernels/ops/quantize/__init__.py. The oracle is ml_dtypes' cast of clamped values."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import mpkernels as mp
from mpkernels import native
from mpkernels.formats import FP8_DTYPES, HIGH_PRECISION_DTYPES, format_of
from mpkernels.testing import all_codes, assert_matches, bits_of, special_values, strided_views

ML_DTYPES = {torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn, torch.float8_e5m2: ml_dtypes.float8_e5m2}
NAN_CODE = 0x7F
# Exact and inexact products, overflow of nearly everything, underflow of nearly everything, a negative one.
QUANT_SCALES = [1.0, 2.0**-9, 2.0**12, 0.1, 3.0, 448 / 1.7, 1e-30, 3e38, -1.5]
RAGGED = [(1, 1), (63, 65), (1000, 3), (3, 1000), (64, 256), (65, 257), (130, 515), (0, 7), (7, 0), (1, 300), (300, 1)]

dtypes = pytest.mark.parametrize("dtype", HIGH_PRECISION_DTYPES, ids=str)
fp8_dtypes = pytest.mark.parametrize("fp8", FP8_DTYPES, ids=str)
# The backend fixture only sets the instruction set, once for all examples.
any_backend = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def oracle(x: np.ndarray, quant_scale: float, fp8: torch.dtype) -> np.ndarray:
    """The codes of float32 values, as uint8."""
    with np.errstate(all="ignore"):
        product = np.asarray(x * np.float32(quant_scale))
        largest = np.float32(format_of(fp8).max)
        codes = np.clip(product, -largest, largest).astype(ML_DTYPES[fp8]).view(np.uint8)
    nan = np.isnan(product)
    if nan.any():
        negative = np.signbit(x) ^ np.signbit(np.float32(quant_scale))
        codes = np.where(nan, NAN_CODE | negative.astype(np.uint8) << 7, codes)
    return codes


def expected_codes(x: torch.Tensor, quant_scale: float, fp8: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.array(oracle(x.float().numpy(), quant_scale, fp8)))


def assert_layout(codes: torch.Tensor) -> None:
    """Of a matrix of codes: rows begin at multiples of 16 bytes, and the memory is whole rows."""
    if codes.dim() != 2 or not codes.numel():
        assert codes.is_contiguous()
        return
    rows, columns = codes.shape
    pitch = (columns + 15) // 16 * 16
    assert codes.stride() == (pitch, 1)
    assert (codes.data_ptr() % 16, codes.storage_offset(), codes.untyped_storage().nbytes()) == (0, 0, rows * pitch)


def assert_quantizes(x: torch.Tensor, quant_scale: float, fp8: torch.dtype, backend: str | None, device: str = "cpu") -> None:
    """Codes, transpose and amax of `x`, without and (if 2-D) with the transpose."""
    expected = expected_codes(x, quant_scale, fp8)
    amax = x.float().abs().max() if x.numel() else torch.zeros(())
    for transpose in (False, True) if x.dim() == 2 else (False,):
        on_device = x.to(device)
        got = mp.quantize(on_device, torch.tensor(quant_scale, device=device), fp8, transpose=transpose, backend=backend)
        assert got.q.dtype == fp8
        assert_layout(got.q)
        assert_matches(bits_of(got.q).float(), expected.float())
        assert_matches(got.amax, amax)
        if transpose:
            assert_layout(got.q_t)
            assert_matches(bits_of(got.q_t).float(), expected.t().contiguous().float())
        else:
            assert got.q_t is None


@pytest.mark.spread
@fp8_dtypes
@pytest.mark.parametrize("quant_scale", QUANT_SCALES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value(backend, device, dtype, fp8, quant_scale):
    assert_quantizes(all_codes(dtype), quant_scale, fp8, backend, device)


@fp8_dtypes
@pytest.mark.parametrize("level", native.CPU_CAPABILITIES)
def test_every_bfloat16_value_under_every_exponent_of_the_scale(level, fp8, request):
    """The CPU's table of BF16 mantissas serves some exponents, and arithmetic the others."""
    limit_to(level, request)
    x = all_codes(torch.bfloat16)
    for exponent in range(256):
        for mantissa in (0, (exponent * 0x9E3779 | 1) & 0x7FFFFF):
            bits = np.array([(exponent + mantissa) % 2 << 31 | exponent << 23 | mantissa], np.uint32)
            quant_scale = torch.from_numpy(bits.view(np.float32))[0]
            got, expected = (mp.quantize(x, quant_scale, fp8, backend=name) for name in ("cpu", "reference"))
            assert_matches(bits_of(got.q).float(), bits_of(expected.q).float())
            assert_matches(got.amax, expected.amax)


@pytest.mark.spread
@fp8_dtypes
@pytest.mark.parametrize("quant_scale", [1.0, 0.1, -1.5])
def test_fp32_around_every_upper_half(backend, device, fp8, quant_scale):
    """Every sign, exponent and 7 leading fraction bits, with trailing halves on and beside the ties of both formats."""
    upper = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    values = (upper | lower).view(np.float32).reshape(768, 512)  # as (65536, 6) nine tenths of each tile would be empty
    assert_quantizes(torch.from_numpy(values), quant_scale, fp8, backend, device)


@pytest.mark.slow
@pytest.mark.parametrize("sixteenth", range(16))
@fp8_dtypes
def test_every_fp32_value(fp8, sixteenth):
    """All 2^32 bit patterns against ml_dtypes, on the best instruction set; in sixteenths to bound the memory."""
    if native.cpu_missing is not None:
        pytest.skip(f"cpu: {native.cpu_missing}")
    chunk = 2**24
    for start in range(sixteenth << 28, (sixteenth + 1) << 28, chunk):
        x = (np.arange(chunk, dtype=np.uint32) + np.uint32(start)).view(np.float32)
        q, _, amax = mp.quantize(torch.from_numpy(x), torch.tensor(1.0), fp8, backend="cpu")
        wrong = np.flatnonzero(q.view(torch.uint8).numpy() != oracle(x, 1.0, fp8))
        assert not wrong.size, f"{wrong.size} codes differ, the first for bits {start + wrong[0]:#010x}"
        np.testing.assert_array_equal(amax.numpy(), np.abs(x[[0, -1]]).max())  # the largest pattern of a chunk is its last


@pytest.mark.spread
@dtypes
@fp8_dtypes
def test_special_values(backend, device, dtype, fp8):
    assert_quantizes(special_values(dtype), 1.0, fp8, backend, device)


@fp8_dtypes
def test_saturates_and_never_gives_inf(backend, device, fp8):
    largest = format_of(fp8).max
    x = torch.tensor([largest, 1.5 * largest, 3e38, float("inf"), -1.5 * largest, -float("inf")], device=device)
    q = mp.quantize(x, torch.tensor(1.0, device=device), fp8, backend=backend).q
    assert_matches(q.float().cpu(), torch.tensor([largest] * 4 + [-largest] * 2))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("x", "quant_scale", "code"),
    [
        (float("nan"), 1.0, 0x7F),
        (-float("nan"), 1.0, 0xFF),
        (float("nan"), -1.0, 0xFF),
        (1.0, float("nan"), 0x7F),
        (-1.0, float("nan"), 0xFF),
        (float("inf"), 0.0, 0x7F),  # here the hardware's NaN is negative on x86 and positive elsewhere
        (-float("inf"), 0.0, 0xFF),
        (-0.0, 1.0, 0x80),
        (1e-30, 1e-30, 0x00),
        (-1e-30, 1.0, 0x80),
    ],
)
@fp8_dtypes
def test_nan_and_zero_codes(backend, device, fp8, x, quant_scale, code):
    for count in (1, 100):  # the tail of a vector loop, and its body
        q = mp.quantize(torch.full((count,), x, device=device), torch.tensor(quant_scale, device=device), fp8, backend=backend).q
        assert set(q.view(torch.uint8).tolist()) == {code}


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("transpose", [False, True])
def test_amax_is_unscaled_and_propagates(backend, device, dtype, bad, transpose):
    x = torch.randn(130, 300, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)
    quant_scale = torch.tensor(1e-3, device=device)
    assert_matches(mp.quantize(x, quant_scale, transpose=transpose, backend=backend).amax, x.float().abs().max())
    for position in ((0, 0), (100, 17), (129, 299)):
        poisoned = x.clone()
        poisoned[position] = bad
        amax = mp.quantize(poisoned, quant_scale, transpose=transpose, backend=backend).amax
        assert_matches(amax, torch.tensor(abs(bad)))


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("shape", RAGGED, ids=str)
def test_ragged_shapes(backend, device, dtype, shape):
    assert_quantizes(torch.randn(shape).to(dtype), 7.0, torch.float8_e4m3fn, backend, device)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.bfloat16, 1), (torch.bfloat16, 2), (torch.bfloat16, 4), (torch.float32, 1), (torch.float32, 2)],
    ids=str,
)
def test_rows_of_x_that_begin_anywhere(backend, device, dtype, offset):
    """At multiples of 2, 4, 8, 4 and 8 bytes; the last columns cut a piece of 16."""
    x = torch.randn(130, 260 + offset).to(dtype)
    assert_quantizes(x[:, offset:], 3.0, torch.float8_e4m3fn, backend, device)


@fp8_dtypes
@pytest.mark.parametrize("shape", [(300, 700), (2, 100_000), (100_000, 2)], ids=str)
def test_enough_for_several_threads(backend, device, fp8, shape, not_emulated):
    assert_quantizes(torch.randn(shape).bfloat16(), 30.0, fp8, backend, device)


@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x.t(), lambda x: x[:, 64:], lambda x: x[1:]],
    ids=["contiguous", "transposed", "pitched", "ragged"],
)
def test_too_large_for_the_cache(backend, device, view, not_emulated):
    """8 MB of codes and more are stored past the caches, where whole cache lines are written."""
    assert_quantizes(view(torch.randn(2176, 4096).bfloat16()), 30.0, torch.float8_e4m3fn, backend, device)


@pytest.mark.spread
@dtypes
@pytest.mark.parametrize("shape", [(13, 37), (129, 300)], ids=str)
def test_strides(backend, device, dtype, shape):
    for _, x in strided_views(shape, dtype):
        assert_quantizes(x, 2.5, torch.float8_e5m2, backend, device)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[3, 4, 5],
        lambda x: x[0, 0],
        lambda x: x.permute(2, 0, 1),
        lambda x: x[1:, ::2, 3:],
        lambda x: x[:, :, None].expand(-1, -1, 2, -1),
    ],
    ids=["0-D", "1-D", "permuted", "sliced", "4-D expanded"],
)
def test_any_number_of_dims(backend, device, view):
    assert_quantizes(view(torch.randn(7, 9, 33).bfloat16()), 2.0, torch.float8_e4m3fn, backend, device)


@any_backend
@given(data=st.data(), dtype=st.sampled_from(HIGH_PRECISION_DTYPES), fp8=st.sampled_from(FP8_DTYPES))
def test_any_shape_strides_and_values(backend, device, data, dtype, fp8):
    shape = data.draw(st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=150))
    seed, transposed = data.draw(st.integers(0, 2**31)), data.draw(st.booleans())
    row_step, column_step, offset = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3)))
    quant_scale = data.draw(st.floats(2.0**-30, 2.0**30, width=32))
    bits = np.random.default_rng(seed).integers(0, 2**32, (shape[0] * row_step, shape[1] * column_step + offset), dtype=np.uint32)
    values = torch.from_numpy(bits.view(np.float32)).to(dtype)
    x = values[::row_step, offset::column_step]
    assert_quantizes(x.t() if transposed else x, quant_scale, fp8, backend, device)


@given(values=st.lists(st.floats(width=32), max_size=200), quant_scale=st.floats(width=32, min_value=0))
def test_any_values(values, quant_scale):
    assert_quantizes(torch.tensor(values, dtype=torch.float32), quant_scale, torch.float8_e4m3fn, None)


def limit_to(level: str, request: pytest.FixtureRequest) -> None:
    """An instruction set, for the time of the test."""
    if native.cpu_missing is not None:
        pytest.skip(f"cpu: {native.cpu_missing}")
    request.addfinalizer(lambda: native.set_cpu_capability("auto"))
    try:
        native.set_cpu_capability(level)
    except ValueError as why:
        pytest.skip(f"cpu: {why}")


@pytest.mark.parametrize("level", native.CPU_CAPABILITIES)
def test_every_instruction_set_gives_the_same_bytes(level, request):
    bits = np.random.default_rng(0).integers(0, 2**32, (1031, 517), dtype=np.uint32)
    x, quant_scale = torch.from_numpy(bits.view(np.float32)), torch.tensor(0.7)
    best = mp.quantize(x, quant_scale, transpose=True, backend="cpu")
    limit_to(level, request)
    got = mp.quantize(x, quant_scale, transpose=True, backend="cpu")
    for name in ("q", "q_t"):
        assert torch.equal(getattr(got, name).view(torch.uint8), getattr(best, name).view(torch.uint8)), name


def refused(error: type[Exception], sentence: str, *args: object, **kwargs: object) -> None:
    with pytest.raises(error, match=sentence):
        mp.quantize(*args, **kwargs)


def test_refusals():
    x, quant_scale = torch.ones(4, 6), torch.tensor(1.0)
    refused(TypeError, r"x must be one of torch.float32, .*got torch.float64", x.double(), quant_scale)
    refused(TypeError, r"dtype must be one of torch.float8_e4m3fn, .*got torch.float16", x, quant_scale, torch.float16)
    refused(TypeError, r"quant_scale must be a float32 .*got torch.float64 of shape \(\)", x, quant_scale.double())
    refused(TypeError, r"quant_scale must be a float32 .*got torch.float32 of shape \(1,\)", x, quant_scale[None])
    refused(ValueError, r"quant_scale must be on cpu like .*got meta", x, quant_scale.to("meta"))
    refused(ValueError, r"x must be \(M, K\) where transpose=True, got shape \(24,\)", x.view(24), quant_scale, transpose=True)
    refused(
        ValueError,
        r"x must be \(M, K\) where transpose=True, got shape \(2, 2, 6\)",
        x.view(2, 2, 6),
        quant_scale,
        transpose=True,
    )


def test_backends_say_why_not():
    x = torch.ones(3, device="meta")
    with pytest.raises(mp.BackendUnavailable, match="backend 'cpu': x is on meta, not on the CPU"):
        mp.ops.quantize.op.select((x, torch.ones((), device="meta"), torch.float8_e4m3fn, False), "cpu")


@pytest.mark.parametrize("transpose", [False, True])
def test_opcheck(backend, device, transpose):
    args = (torch.randn(33, 7, device=device), torch.tensor(2.0, device=device), torch.float8_e4m3fn, transpose)
    torch.library.opcheck(torch.ops.mpkernels.quantize.default, args, {"backend": backend})


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(transpose, dynamic):
    def both(x, quant_scale):
        q, q_t, amax = mp.quantize(x * 2, quant_scale, transpose=transpose)
        return q.float() + 1, amax, q_t

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((33, 7), (48, 9), (16, 32))[: 1 + 2 * dynamic]:
        x, quant_scale = torch.randn(shape), torch.tensor(2.0)
        expected, got = both(x, quant_scale), compiled(x, quant_scale)
        assert_matches(got[0], expected[0])
        assert_matches(got[1], expected[1])
        assert transpose == (got[2] is not None)
        if transpose:
            assert_matches(got[2], expected[2])
            assert_layout(got[2])
