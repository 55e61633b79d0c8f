"""The `backend` fixture, and outputs that are poisoned and fenced so that unwritten or overrun memory is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

import mpkernels  # noqa: F401  # registers the ops
from mpkernels import native
from mpkernels.dispatch import BACKENDS, OPS

ROOT = Path(__file__).parents[1]
GUARD_BYTES = 64  # a cache line on each side of every output
GUARD, POISON = 0xA5, 0xFF  # 0xFF... is a NaN in every float format, FP8 included

settings.register_profile("default", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("default")


def backends_of(op: str) -> list[str]:
    """The backends that exist for an op (by file), the CPU one once for each instruction set."""
    files = {path.stem for path in (ROOT / "mpkernels/ops" / op).glob("*.py")}
    names: list[str] = []
    for backend in BACKENDS:
        if backend in files:
            names += [f"cpu-{level}" for level in native.CPU_CAPABILITIES] if backend == "cpu" else [backend]
    return names


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """tests/ops/test_<op>.py: every test that takes `backend` runs for every backend that the op has."""
    op = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    if "backend" in metafunc.fixturenames and (ROOT / "mpkernels/ops" / op).is_dir():
        metafunc.parametrize("backend", backends_of(op), indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A backend's name to pass as `backend=`; for the CPU one the instruction set is limited for the time of the test."""
    name, _, level = request.param.partition("-")
    if name in ("cuda", "triton") and not torch.cuda.is_available():
        pytest.skip(f"{name}: no CUDA device")
    if not level:
        yield name
        return
    if native.cpu_missing is not None:
        pytest.skip(f"cpu: {native.cpu_missing}")
    try:
        before = native.set_cpu_capability(level)
    except ValueError as why:
        pytest.skip(f"cpu: {why}")
    yield name
    native.set_cpu_capability(before)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where the backend under test wants its data."""
    return "cuda" if request.node.callspec.params.get("backend") in ("cuda", "triton") else "cpu"


class Fences:
    """Memory handed out as outputs: filled with poison and, on the CPU, between two guard lines."""

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []

    def fence(self, output: torch.Tensor) -> torch.Tensor:
        if type(output) is not torch.Tensor or output.device.type == "meta" or not output.is_contiguous() or not output.numel():
            return output  # fake tensors have no bytes
        size = output.numel() * output.element_size()
        if not output.is_cpu:
            output.view(-1).view(torch.uint8).fill_(POISON)
            return output
        memory = np.full(size + 3 * GUARD_BYTES, GUARD, dtype=np.uint8)
        start = -memory.ctypes.data % GUARD_BYTES  # torch's own memory is aligned to 64 bytes too, which kernels may use
        buffer = memory[start : start + size + 2 * GUARD_BYTES]
        buffer[GUARD_BYTES : GUARD_BYTES + size] = POISON
        self.buffers.append(buffer)
        # frombuffer makes a storage of its own at this address: opcheck wants outputs without a storage offset
        return torch.frombuffer(buffer, dtype=output.dtype, count=output.numel(), offset=GUARD_BYTES).view(output.shape)

    def assert_whole(self) -> None:
        for buffer in self.buffers:
            for side in (buffer[:GUARD_BYTES], buffer[-GUARD_BYTES:]):
                assert (side == GUARD).all(), "a kernel wrote outside its output"


@pytest.fixture(autouse=True)
def fenced_outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fences = Fences()
    for op in OPS.values():
        outputs = op.outputs
        monkeypatch.setattr(op, "outputs", lambda *args, _outputs=outputs: tuple(fences.fence(t) for t in _outputs(*args)))
    yield
    fences.assert_whole()
