"""mpkernels.dispatch: selection, refusal, explanation; and what holds for every op."""

from __future__ import annotations

import pytest
import torch

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
