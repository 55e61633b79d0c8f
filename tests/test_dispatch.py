"""mpkernels.dispatch: selection, refusal, explanation; and what holds for every op."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mp
from mpkernels import native
from mpkernels.dispatch import BACKENDS, OPS
from mpkernels.formats import FP8_DTYPES

each_op = pytest.mark.parametrize("name", sorted(OPS))
CPU = torch.device("cpu")


def clone(value):
    """A call's argument, copied, so that mutating ops do not share it."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return [clone(v) for v in value] if isinstance(value, list) else value


def flat(values):
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        elif isinstance(value, torch.Tensor):
            yield value


@each_op
def test_cpu_backend_agrees_with_the_reference_on_the_example(name):
    op = OPS[name]
    seen = {}
    for backend in ("cpu", "reference"):
        args = clone(list(op.example(CPU)))
        seen[backend] = [*flat(op.torch_op(*args, backend=backend)), *flat(args)]
    for ours, reference in zip(seen["cpu"], seen["reference"], strict=True):
        torch.testing.assert_close(ours.float(), reference.float(), equal_nan=True)


@each_op
def test_opcheck(name):
    op = OPS[name]
    args = op.bind(*op.example(CPU))
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic", "test_schema"]
    if any(t.dtype in FP8_DTYPES for t in flat(list(args))):
        checks.remove("test_schema")  # it does arithmetic on the inputs, which torch does not have for FP8 on the CPU
    torch.library.opcheck(op.torch_op, args, test_utils=checks)


@each_op
def test_named_backend_that_cannot_run_raises_with_its_reason(name):
    op = OPS[name]
    with pytest.raises(mp.BackendUnavailable, match=f"mpkernels.{name}: backend 'cuda': "):
        op.torch_op(*op.example(CPU), backend="cuda")


@each_op
def test_explain_names_every_backend(name):
    reasons = mp.explain(name, *OPS[name].example(CPU))
    assert tuple(reasons) == BACKENDS
    assert reasons["reference"] is None
    assert all(reason is None or (reason and not reason.endswith(".")) for reason in reasons.values())


def test_unknown_backend_is_refused_with_the_list():
    with pytest.raises(mp.BackendUnavailable, match="no such backend; there are cuda, triton, cpu, reference"):
        mp.amax(torch.ones(3), backend="tpu")


def test_explain_refuses_an_unknown_op_and_unknown_arguments():
    with pytest.raises(ValueError, match=r"op must be one of adamw_update_, amax.*got 'amix'"):
        mp.explain("amix", torch.ones(3))
    with pytest.raises(TypeError, match="no argument 'y'"):
        mp.explain("amax", torch.ones(3), y=1)
    with pytest.raises(TypeError, match="missing argument 'x'"):
        mp.explain("amax")
    with pytest.raises(TypeError, match="takes 1 arguments, got 2"):
        mp.explain("amax", torch.ones(3), 2)


def test_falls_back_without_the_compiled_library(monkeypatch):
    monkeypatch.setattr(native, "cpu_missing", "the compiled library is missing")
    assert mp.explain("amax", torch.ones(3))["cpu"] == "the compiled library is missing"
    assert mp.amax(torch.tensor([1.0, -2.0])) == 2
    with pytest.raises(mp.BackendUnavailable, match="the compiled library is missing"):
        mp.amax(torch.ones(3), backend="cpu")


def test_a_broken_backend_module_raises_instead_of_falling_back(monkeypatch):
    op = OPS["amax"]
    monkeypatch.setattr(op, "_modules", None)

    def broken(name):
        raise RuntimeError("a bug at import")

    monkeypatch.setattr("mpkernels.dispatch.importlib.import_module", broken)
    with pytest.raises(RuntimeError, match="a bug at import"):
        mp.amax(torch.ones(3))


def test_a_backend_that_needs_a_missing_package_says_so(monkeypatch):
    op = OPS["amax"]
    monkeypatch.setattr(op, "_modules", None)

    def missing(name):
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr("mpkernels.dispatch.importlib.import_module", missing)
    assert op.modules["triton"] == "needs triton"


@pytest.mark.parametrize("level", native.CPU_CAPABILITIES)
def test_cpu_capability_can_be_limited(level):
    try:
        before = native.set_cpu_capability(level)
    except ValueError as why:
        pytest.skip(str(why))
    assert native.cpu_capability() == level
    assert native.set_cpu_capability(before) == level


def test_unknown_cpu_capability_is_refused():
    with pytest.raises(ValueError, match="CPU capability must be auto, default, avx2, avx512, avx512_bf16, got 'mmx'"):
        native.set_cpu_capability("mmx")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_ops_record_nothing_for_autograd_but_torchs_own_warning(backend):
    out = mp.amax(torch.ones(3, requires_grad=True), backend=backend)
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        out.backward()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_lazily_negated_views_are_read_with_their_sign(backend):
    x = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert x.is_neg()
    q = mp.quantize(x, torch.tensor(1.0), backend=backend).q
    assert q.float().tolist() == [-2.0, -4.0]


MADE_OF_PARTS = sorted(name for name, op in OPS.items() if op.parts is not None)
each_op_of_parts = pytest.mark.parametrize("name", MADE_OF_PARTS)


def results_of(call, op):
    """What a call returns, and its arguments after it."""
    args = clone(list(op.bind(*op.example(CPU))))
    return [*flat(call(*args, backend=None)), *flat(args)]


def assert_same_bytes(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@each_op
def test_a_call_without_the_dispatcher_is_the_op(name):
    op = OPS[name]
    assert_same_bytes(results_of(op.call, op), results_of(op.torch_op, op))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Wrapped(torch.Tensor):
    """A subclass that wants to see every operator."""

    names: ClassVar[list[str]] = []

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.names.append(func.name())
        return torch.ones(())

    @staticmethod
    def __new__(cls, like):
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)


def test_a_call_goes_through_the_dispatcher_where_somebody_sees_it():
    amax, x = OPS["amax"].call, torch.ones(3)
    with Seen() as seen:
        amax(x, backend=None)
    assert seen.names == ["mpkernels::amax"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        amax(x, backend=None)
    assert "mpkernels::amax" in {event.key for event in profiler.key_averages()}
    amax(Wrapped(x), backend=None)
    assert Wrapped.names == ["mpkernels::amax"]
    with FakeTensorMode() as mode:
        assert amax(mode.from_tensor(x), backend=None).shape == ()
    compiled = torch.compile(lambda x: amax(x, backend=None), fullgraph=True, backend="aot_eager")
    assert compiled(x) == 1


@each_op_of_parts
def test_parts_get_the_backend_that_was_asked_for(name, monkeypatch):
    op, asked = OPS[name], []
    for part in op.made_of:
        call = part.call
        note = lambda *args, backend, part=part, call=call: asked.append((part.name, backend)) or call(*args, backend=backend)  # noqa: E731
        monkeypatch.setattr(part, "call", note)
    results_of(lambda *args, backend: op.torch_op(*args, backend="reference"), op)
    assert {backend for _, backend in asked} == {"reference"}
    assert "scaled_mm" in {part for part, _ in asked}
    asked.clear()
    results_of(op.torch_op, op)
    assert asked == []  # the CPU has it in one call


@each_op_of_parts
def test_without_a_backend_that_has_it_in_one_call_it_is_its_parts(name, monkeypatch):
    op = OPS[name]
    expected = results_of(op.torch_op, op)
    monkeypatch.setattr(op, "_modules", dict.fromkeys(BACKENDS, "not implemented"))
    assert_same_bytes(results_of(op.torch_op, op), expected)


@each_op_of_parts
def test_reasons_of_an_op_of_parts_are_those_of_a_part(name):
    op = OPS[name]
    part = op.made_of[0]
    reasons = mp.explain(name, *op.example(CPU))
    assert reasons["cuda"] == mp.explain(part.name, *part.example(CPU))["cuda"]
    with pytest.raises(mp.BackendUnavailable, match=rf"mpkernels.{name}: backend 'tpu': .*no such backend; there are cuda"):
        op.torch_op(*op.example(CPU), backend="tpu")
