"""The `backend` fixture, and outputs that are poisoned and fenced so that unwritten or overrun memory is seen.

Among the values of `backend` are emulated GPUs: emulated.py.
"""

from __future__ import annotations

import gc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import emulated
import emulated_triton
import numpy as np
import pytest
import torch
from hypothesis import settings
from triton_interpreter.launcher import InterpretedLauncher
from triton_interpreter.launcher import wanted as interpreting

import mpkernels  # noqa: F401  # registers the ops
from mpkernels import native
from mpkernels.dispatch import BACKENDS, OPS, Op

ROOT = Path(__file__).parents[1]
T = TypeVar("T")
GUARD_BYTES = 64  # a cache line on each side of every output
GUARD, POISON = 0xA5, 0xFF  # 0xFF... is a NaN in every float format, FP8 included

settings.register_profile("default", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("default")


def backends_of(op: str) -> list[str]:
    """The backends that exist for an op (by file), the CPU one once for each instruction set.

    The GPU ones are run once on a GPU, if there is one, and emulated for each target.
    """
    files = {path.stem for path in (ROOT / "mpkernels/ops" / op).glob("*.py")}
    variants = {
        "cpu": [f"cpu-{level}" for level in native.CPU_CAPABILITIES],
        "cuda": ["cuda", *(f"cuda-emulated-{target}" for target in emulated.TARGETS)],
        "triton": ["triton", *(f"triton-emulated-{target}" for target in emulated_triton.TARGETS)],
    }
    if interpreting():  # in a process of its own: triton_interpreter/test_interpreter.py
        return ["triton-interpreted"] if "triton" in files else []
    return [name for backend in BACKENDS if backend in files for name in variants.get(backend, [backend])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """tests/ops/test_<op>.py: every test that takes `backend` runs for every backend that the op has."""
    op = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    if "backend" in metafunc.fixturenames and (ROOT / "mpkernels/ops" / op).is_dir():
        metafunc.parametrize("backend", backends_of(op), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked `spread`: its cases take turns on the emulated GPUs, instead of each running on all of them.

    So do all cases of the Triton backend, whose one source is compiled for all; tests begin with different targets.
    """
    seen: Counter[tuple[str, str]] = Counter()
    kept, left_out = [], []
    for item in items:
        backend = getattr(item, "callspec", None) and item.callspec.params.get("backend", "")
        of_triton = bool(backend) and backend.startswith("triton")
        if backend and "emulated-" in backend and (of_triton or item.get_closest_marker("spread")):
            targets = list(emulated_triton.TARGETS if of_triton else emulated.TARGETS)
            turn = targets.index(backend.partition("emulated-")[2])
            test = item.nodeid.partition("[")[0]
            case = seen[test, backend] + (zlib.crc32(test.encode()) if of_triton else 0)
            seen[test, backend] += 1
            (kept if case % len(targets) == turn else left_out).append(item)
        else:
            kept.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and torch's modules stay to the end: the garbage collector need not visit them every time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests recorded as their "table", wherever they ran."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, text in report.user_properties:
            if name == "table":
                terminalreporter.write(f"\n{text}\n")


def without_synchronisation(select: Callable[..., Any]) -> Callable[..., Any]:
    """Backends whose `run` raises where it would wait for the GPU."""

    def guarded(*args: Any) -> SimpleNamespace | None:
        module = select(*args)
        if module is None:
            return None  # the op's parts, which are selected in their turn

        def run(*arguments: Any) -> None:
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                module.run(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return SimpleNamespace(run=run)

    return guarded


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fenced_outputs: Fences) -> Iterator[str]:
    """A backend's name to pass as `backend=`.

    For the CPU one the instruction set is limited for the time of the test; for an emulated one the tensors stay on the CPU.
    """
    name, _, level = request.param.partition("-")
    turn = zlib.crc32(request.node.name.encode())
    if level == "interpreted":
        monkeypatch.setattr("mpkernels.triton_launch._launcher", InterpretedLauncher(turn))
    elif name == "triton" and level:
        if (why := emulated_triton.why_not()) is not None:
            pytest.skip(f"emulated: {why}")
        launcher = emulated_triton.launcher(level.removeprefix("emulated-"), fenced_outputs.is_unwritten, turn)
        monkeypatch.setattr("mpkernels.triton_launch._launcher", launcher)
    elif level.startswith("emulated-"):
        if (why := emulated.why_not()) is not None:
            pytest.skip(f"emulated: {why}")
        device = emulated.EmulatedDevice(level.removeprefix("emulated-"), is_unwritten=fenced_outputs.is_unwritten, turn=turn)
        monkeypatch.setattr(native, "cuda", device)
        monkeypatch.setattr(native, "cuda_why_not", lambda name, tensor: None)
        monkeypatch.setattr(native, "cuda_architecture", lambda tensor: device.facts.architecture)
        skip_where_refused(request)
    elif name in ("cuda", "triton"):
        if not torch.cuda.is_available():
            pytest.skip(f"{name}: no CUDA device")
        monkeypatch.setattr(Op, "select", without_synchronisation(Op.select))
    if name != "cpu":
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


def skip_where_refused(request: pytest.FixtureRequest) -> None:
    """An op need not have CUDA kernels for every architecture."""
    op = OPS.get(request.module.__name__.rpartition(".")[2].removeprefix("test_"))
    why = None if op is None else op.explain(*op.bind(*op.example(torch.device("cpu"))))["cuda"]
    if why is not None:
        pytest.skip(f"emulated: {why}")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where the backend under test wants its data."""
    return "cuda" if request.node.callspec.params.get("backend") in ("cuda", "triton") else "cpu"


def is_emulated(request: pytest.FixtureRequest) -> bool:
    """Whether the test runs a thousand times slower than on a device."""
    return any(
        how in getattr(request.node, "callspec", request.node).params.get("backend", "") for how in ("emulated", "interpreted")
    )


EMULATED_EXAMPLES = 4  # of a hypothesis test, for each target


@pytest.fixture(autouse=True)
def fewer_examples_where_emulated(request: pytest.FixtureRequest) -> Iterator[None]:
    test = getattr(request.function, "_hypothesis_internal_use_settings", None)
    if test is None or not hasattr(request.node, "callspec") or not is_emulated(request):
        yield
        return
    request.function._hypothesis_internal_use_settings = settings(test, max_examples=EMULATED_EXAMPLES)
    yield
    request.function._hypothesis_internal_use_settings = test


@pytest.fixture
def thinned(request: pytest.FixtureRequest) -> Callable[[Sequence[T], int], Sequence[T]]:
    """thinned(cases, n): all of them, or every n-th where an emulated backend makes each cost a thousand times as much."""
    return lambda cases, n: cases[::n] if is_emulated(request) else cases


@pytest.fixture
def not_emulated(request: pytest.FixtureRequest) -> None:
    """For tests of large tensors, with nothing in them that smaller ones do not show to an emulator."""
    if is_emulated(request):
        pytest.skip("emulated: too large")


class Fences:
    """Memory handed out as outputs: filled with poison and, on the CPU, between two guard lines."""

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []
        self.unwritten: set[int] = set()

    def fence(self, output: torch.Tensor) -> torch.Tensor:
        if type(output) is not torch.Tensor or output.device.type == "meta" or not output.numel():
            return output  # fake tensors have no bytes
        size = output.untyped_storage().nbytes()  # the padding between rows too, which kernels may write, and must not rely on
        if not output.is_cpu:
            output.untyped_storage().fill_(POISON)
            return output
        memory = np.full(size + 3 * GUARD_BYTES, GUARD, dtype=np.uint8)
        start = -memory.ctypes.data % GUARD_BYTES  # torch's own memory is aligned to 64 bytes too, which kernels may use
        buffer = memory[start : start + size + 2 * GUARD_BYTES]
        buffer[GUARD_BYTES : GUARD_BYTES + size] = POISON
        self.buffers.append(buffer)
        self.unwritten.add(buffer.ctypes.data + GUARD_BYTES)
        # frombuffer makes a storage of its own at this address: opcheck wants outputs without a storage offset
        count = size // output.element_size()
        flat = torch.frombuffer(buffer, dtype=output.dtype, count=count, offset=GUARD_BYTES)
        return flat.as_strided(output.shape, output.stride())

    def is_unwritten(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is an output that has just been handed out; answers so once. One that torch filled is not."""
        address = tensor.data_ptr()
        known = address in self.unwritten
        self.unwritten.discard(address)
        return known and bool((tensor.reshape(-1).view(torch.uint8) == POISON).all())

    def assert_whole(self) -> None:
        for buffer in self.buffers:
            for side in (buffer[:GUARD_BYTES], buffer[-GUARD_BYTES:]):
                assert (side == GUARD).all(), "a kernel wrote outside its output"


@pytest.fixture(autouse=True)
def fenced_outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fences]:
    fences = Fences()
    for op in OPS.values():
        outputs = op.outputs
        monkeypatch.setattr(op, "outputs", lambda *args, _outputs=outputs: tuple(fences.fence(t) for t in _outputs(*args)))
    yield fences
    fences.assert_whole()
