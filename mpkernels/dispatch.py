"""Which backend runs an op, and why. The only module that chooses.

An op is a folder mpkernels/ops/<op>/. Its __init__.py is the contract and makes one `Op` (two where there is an `out` form).
A backend of that op is a module in that folder, named after the backend, with two functions that take the op's arguments:

    why_not(*args) -> str | None      None if it can run these arguments, else the reason as a sentence without subject
    run(*outputs, *args) -> None      fill the outputs (or mutate the arguments); may rely on the contract's checks

It may have a third, `plan(*outputs, *args) -> str`: what it would launch, in words, for `explain`.

Where two ops share one set of backends, `Op(arguments=...)` of the one maps its call to the arguments of the other. An op that is
others in turn has `Op(parts=...)`, and a file only for a backend that does it in one call; with any other it is its parts.

A missing file means "not implemented". Nothing else registers anything. A backend asked for by name runs or raises;
only "no preference" falls back, in the order of `BACKENDS`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

BACKENDS = ("cuda", "triton", "cpu", "reference")
LIBRARY = torch.library.Library("mpkernels", "DEF")
OPS: dict[str, Op] = {}
_below_autograd, _increment_version = torch._C._AutoDispatchBelowAutograd, torch.autograd.graph.increment_version
_PLAIN = {torch.Tensor, torch.nn.Parameter, list, type(None), torch.dtype, bool, int, float}  # arguments that hide no behaviour


class BackendUnavailable(RuntimeError):
    """A backend asked for by name cannot run these arguments, or no backend can. The message holds each backend's reason."""


class Explanation(dict[str, "str | None"]):
    """Backend -> None if it would run the call, else the reason why not. As a string a line each, with its plan."""

    def __init__(self, reasons: dict[str, str | None], plan: Callable[[str], str | None]) -> None:
        super().__init__(reasons)
        self._plan = plan

    @functools.cached_property
    def plans(self) -> dict[str, str]:
        """Of the backends that would run the call and tell: what they would launch. Allocates what the call would."""
        told = {backend: self._plan(backend) for backend, why in self.items() if why is None}
        return {backend: text for backend, text in told.items() if text is not None}

    def __str__(self) -> str:
        return "\n".join(f"{backend}: {why or self.plans.get(backend, 'yes')}" for backend, why in self.items())


def _no_outputs(*_args: Any) -> tuple[()]:
    return ()


class Op:
    """One torch.ops.mpkernels operator and its backends.

    Args:
        schema: as torch.library takes it, without the `backend` argument, which is added here.
        check: raises TypeError or ValueError unless the arguments keep the contract. Runs before anything is allocated or
            written, on real and on fake tensors alike, so it may look at metadata only.
        outputs: allocates the outputs, uninitialised. It is the fake implementation too, so shapes cannot disagree.
        arguments: (outputs, *args) -> what its backends' `why_not` and `run` take instead, where two ops share one set of
            backends. `explain` allocates nothing and passes () for outputs.
        parts: (*args, backend) -> outputs, by calling other ops (`Op.call`), for an op that is a sequence of them.
        made_of: those ops, for `explain`.
        example: device -> arguments of a small valid call, for the doctor and for tests that run over every op.
        defaults: values for `explain` of arguments whose default no schema can spell (ScalarType).
        package: the op's package, `__name__` of the caller.
    """

    def __init__(
        self,
        schema: str,
        *,
        check: Callable[..., None],
        example: Callable[[torch.device], tuple[Any, ...]],
        package: str,
        outputs: Callable[..., tuple[torch.Tensor, ...]] = _no_outputs,
        arguments: Callable[..., tuple[Any, ...]] | None = None,
        parts: Callable[..., tuple[torch.Tensor, ...]] | None = None,
        made_of: tuple[Op, ...] = (),
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.name, rest = schema.split("(", 1)
        signature, result = rest.rsplit(" -> ", 1)
        separator = ", " if ", *, " in signature else ", *, "
        full_schema = f"{self.name}({signature.rstrip()[:-1]}{separator}str? backend=None) -> {result}"
        self.package = package
        self.check, self.outputs, self.arguments, self.example = check, outputs, arguments, example
        self.parts, self.made_of = parts, made_of
        self.defaults = defaults or {}
        self._modules: dict[str, ModuleType | str] | None = None
        LIBRARY.define(full_schema)
        LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mpkernels::{self.name}", self._fake, lib=LIBRARY)
        self.torch_op = getattr(torch.ops.mpkernels, self.name).default
        declared = self.torch_op._schema.arguments[:-1]  # without `backend`
        self._default_values = tuple(a.default_value if a.has_default_value() else None for a in declared)
        self._written = [i for i, a in enumerate(declared) if a.alias_info is not None and a.alias_info.is_write]
        OPS[self.name] = self

    @property
    def modules(self) -> dict[str, ModuleType | str]:
        """Backend -> its module, or the reason it could not be imported."""
        if self._modules is None:
            self._modules = {backend: self._import(backend) for backend in BACKENDS}
        return self._modules

    def _import(self, backend: str) -> ModuleType | str:
        name = f"{self.package}.{backend}"
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:  # any other exception is a bug in that backend: let it raise
            return "not implemented" if error.name == name else f"needs {error.name}"

    def explain(self, *args: Any) -> Explanation:
        """Every backend, with None if it would run these arguments, or the reason why not."""
        self.check(*args)
        asked = args if self.arguments is None else self.arguments((), *args)
        reasons = {b: self._why_parts_not(b, args) if isinstance(m, str) else m.why_not(*asked) for b, m in self.modules.items()}
        return Explanation(reasons, lambda backend: self._plan(backend, args))

    def _why_parts_not(self, backend: str, args: tuple[Any, ...]) -> str | None:
        """Why an op without a file for the backend cannot run: it has no parts, or the reason of a part on the same device."""
        if self.parts is None:
            return str(self.modules[backend])
        device = next(arg for arg in args if isinstance(arg, torch.Tensor)).device
        reasons = (part.explain(*part.bind(*part.example(device)))[backend] for part in self.made_of)
        return next((reason for reason in reasons if reason is not None), None)

    def _plan(self, backend: str, args: tuple[Any, ...]) -> str | None:
        plan = getattr(self.modules[backend], "plan", None)
        if plan is None:
            return None
        outputs = self.outputs(*args)
        return str(plan(*outputs, *args) if self.arguments is None else plan(*self.arguments(outputs, *args)))

    def select(self, args: tuple[Any, ...], backend: str | None = None) -> ModuleType | None:
        """The module that runs these (backend) arguments: the one named, or the first that can. None: the op's parts do.

        Raises:
            BackendUnavailable: with the reason of the named backend, or of every backend.
        """
        modules = self.modules
        if backend is not None:
            module = modules.get(backend, f"no such backend; there are {', '.join(BACKENDS)}")
            if isinstance(module, str) and self.parts is not None:
                return None
            why = module if isinstance(module, str) else module.why_not(*args)
            if why is None:
                return module  # type: ignore[return-value]  # a str always has a reason
            raise BackendUnavailable(f"mpkernels.{self.name}: backend {backend!r}: {why}")
        for module in modules.values():
            if not isinstance(module, str) and module.why_not(*args) is None:
                return module
        if self.parts is not None:
            return None
        reasons = [f"{name}: {m if isinstance(m, str) else m.why_not(*args)}" for name, m in modules.items()]
        raise BackendUnavailable(f"mpkernels.{self.name}: {'; '.join(reasons)}")

    def _run_parts(self, args: tuple[Any, ...], backend: str | None) -> tuple[torch.Tensor, ...]:
        assert self.parts is not None
        try:
            return self.parts(*args, backend=backend)
        except BackendUnavailable as unavailable:
            raise BackendUnavailable(f"mpkernels.{self.name}: backend {backend!r}: {unavailable}") from None

    def _complete(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """All arguments: torch leaves out trailing ones that equal their defaults."""
        return args + self._default_values[len(args) :]

    def _run(self, *args: Any, backend: str | None = None) -> Any:
        args = self._complete(args)
        self.check(*args)
        return self._execute(args, backend)

    def _execute(self, args: tuple[Any, ...], backend: str | None) -> Any:
        with _below_autograd():  # ops are not differentiable: what a backend calls must record nothing
            if self.arguments is None:
                module = self.select(args, backend)
                if module is None:
                    return _unpack(self._run_parts(args, backend))
                outputs = self.outputs(*args)
                module.run(*outputs, *args)
            else:
                outputs = self.outputs(*args)
                backend_args = self.arguments(outputs, *args)
                self.select(backend_args, backend).run(*backend_args)  # type: ignore[union-attr]  # such an op has no parts
        for i in self._written:  # backends write through raw pointers; autograd must still see what it saved being changed
            if args[i] is not None:
                _increment_version(args[i])
        return _unpack(outputs)

    def call(self, *args: Any, backend: str | None) -> Any:
        """The op for code of this package that has kept its contract: all arguments given, and none of them checked again.

        Without torch's dispatcher, whose way from Python to Python costs as much as a small kernel, where nobody can tell the
        difference: no compiler, mode (fake tensors, tracing), profiler or tensor subclass is there to see the op.
        """
        if (
            torch.compiler.is_compiling()
            or torch._C._len_torch_dispatch_stack()
            or torch._C._autograd._profiler_enabled()
            or not _PLAIN.issuperset(map(type, args))
        ):
            return self.torch_op(*args, backend=backend)
        return self._execute(args, backend)

    def _fake(self, *args: Any, backend: str | None = None) -> Any:
        args = self._complete(args)
        self.check(*args)
        return _unpack(self.outputs(*args))

    def copy_written(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with copies of those that a call would write."""
        return tuple(a.clone() if i in self._written and a is not None else a for i, a in enumerate(args))

    def bind(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The op's full argument list from a call's positional and keyword arguments."""
        declared = self.torch_op._schema.arguments[:-1]  # without `backend`
        if len(args) > len(declared):
            raise TypeError(f"mpkernels.{self.name} takes {len(declared)} arguments, got {len(args)}")
        bound = list(args)
        for argument in declared[len(args) :]:
            if argument.name in kwargs:
                bound.append(kwargs.pop(argument.name))
            elif argument.has_default_value():
                bound.append(argument.default_value)
            elif argument.name in self.defaults:
                bound.append(self.defaults[argument.name])
            else:
                raise TypeError(f"mpkernels.{self.name}: missing argument {argument.name!r}")
        if kwargs:
            raise TypeError(f"mpkernels.{self.name} has no argument {next(iter(kwargs))!r}")
        return tuple(bound)


def _unpack(outputs: tuple[torch.Tensor, ...]) -> Any:
    """A torch operator returns None, one tensor or a tuple of them."""
    if len(outputs) > 1:
        return outputs
    return outputs[0] if outputs else None


def explain(op: str, *args: Any, **kwargs: Any) -> Explanation:
    """For each backend: None if it would run this call, else the sentence that says why it would not; and the plan of those that
    tell what they would launch (printed with it, and in `.plans`).

    Args:
        op: the op's name, as in `mpkernels.<op>`.
        *args, **kwargs: the call's arguments (defaults may be left out).

    Raises:
        ValueError: there is no such op. TypeError, ValueError: the arguments break the op's contract.

    Example:
        >>> import torch, mpkernels as mp
        >>> mp.explain("amax", torch.ones(3))["cuda"]
        'x is on cpu, not on a CUDA device'
    """
    if op not in OPS:
        raise ValueError(f"op must be one of {', '.join(sorted(OPS))}, got {op!r}")
    return OPS[op].explain(*OPS[op].bind(*args, **kwargs))
