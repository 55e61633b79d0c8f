"""Launch a Triton kernel as `kernel[grid](*args, **kwargs)` would on a GPU of another kind, in the emulator.

    bound = bind_triton(kernel, (x, y, n), {"BLOCK": 128, "num_warps": 4}, target=90)
    result = bound.launch(lambda meta: (triton.cdiv(n, meta["BLOCK"]),), policy=policy)

Types, divisibility by 16 and the value 1 are found out by Triton's own binder, from tensors (on the CPU), TensorDescriptors,
numbers and tuples of these; the compiler is Triton's for the target. What the launcher of the driver adds is done here: tensor
descriptors become tensor maps, sizes and strides; the scratch pointers come last; constexpr arguments go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .api import Result, launch, load
from .arguments import Buffer, is_array
from .compile import TritonKernel
from .tensor_map import SWIZZLES, TYPE_BYTES, TYPES, TensorMap

Grid = int | Sequence[int] | Callable[[dict[str, Any]], Sequence[int]]

compiled: dict[tuple[str, str, int], TritonKernel] = {}


@dataclass
class BoundKernel:
    """A kernel compiled for its arguments. `arguments`: what the PTX takes, without the scratch pointers."""

    kernel: TritonKernel
    arguments: list[Any]
    named: dict[str, Any]

    def launch(self, grid: Grid, **how: Any) -> Result:
        """`grid` as Triton takes it, in programs; `how`: see api.launch."""
        metadata = self.kernel.metadata
        sizes = grid(self.named) if callable(grid) else (grid,) if isinstance(grid, int) else grid
        x, y, z = (*sizes, 1, 1)[:3]
        ctas = metadata.num_ctas
        scratch = [
            scratch_buffer("global scratch", metadata.global_scratch_size * x * y * z * ctas),
            scratch_buffer("profiler scratch", metadata.profile_scratch_size * x * y * z * ctas),
        ]
        return launch(
            self.kernel.kernel,
            (x * ctas, y, z),
            self.kernel.block,
            [*self.arguments, *scratch],
            shared_bytes=self.kernel.shared_bytes,
            cluster=(ctas, 1, 1) if ctas > 1 else None,
            **how,
        )


def launch_triton(
    function: Any,
    grid: Grid,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: int,
    bases: Sequence[Buffer] = (),
    **how: Any,
) -> Result:
    """`function[grid](*args, **kwargs)` on an emulated sm_<target>. `how`: policy and so on, see api.launch."""
    return bind_triton(function, args, kwargs, target=target, bases=bases).launch(grid, **how)


def bind_triton(
    function: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: int,
    bases: Sequence[Buffer] = (),
) -> BoundKernel:
    """Compile a @triton.jit (or @triton.heuristics) function for its arguments.

    args, kwargs: what the launch passes, options such as num_warps among them. A tensor in a Buffer has the Buffer's name and
    initial state; others are named after their parameter. `bases`: Buffers of tensors that are behind TensorDescriptors.
    """
    kwargs = dict(kwargs or {})
    buffers = {id(a.array): a for a in [*args, *kwargs.values(), *bases] if isinstance(a, Buffer)}
    args = [a.array if isinstance(a, Buffer) else a for a in args]
    kwargs = {name: a.array if isinstance(a, Buffer) else a for name, a in kwargs.items()}
    source, options, named = specialized(function, args, kwargs, "cuda", target)
    key = source.hash(), options.hash(), target
    if key not in compiled:  # Triton's own cache is on disk and is read in milliseconds
        made = compile_source(source, options, "cuda", target)
        module = load(made.asm["ptx"])
        compiled[key] = TritonKernel(module[made.metadata.name], made.asm["ptx"], made.metadata)
    kernel = compiled[key]
    maps = iter(getattr(kernel.metadata, "tensordesc_meta", None) or ())
    has_maps = bool(getattr(kernel.metadata, "tensordesc_meta", None))
    arguments: list[Any] = []
    for name, kind in source.signature.items():
        arguments += expanded(kind, named[name], name, maps if has_maps else None, buffers)
    return BoundKernel(kernel, arguments, named)


def specialized(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], kind: str, target: int | str
) -> tuple[Any, Any, dict[str, Any]]:
    """(what Triton would compile for these arguments, its options, the arguments by name).

    kind, target: ("cuda", 90) or ("hip", "gfx950").
    """
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction, create_function_from_signature

    kwargs = dict(kwargs)
    while isinstance(function, Heuristics):
        for name, rule in function.values.items():
            kwargs[name] = rule({**dict(zip(function.arg_names, args, strict=False)), **kwargs})
        function = function.fn
    if isinstance(function, Autotuner):
        raise TypeError("an autotuned kernel has no single configuration: bind its .fn with the values of one Config")
    if not isinstance(function, JITFunction):
        raise TypeError(f"a @triton.jit function is needed, not a {type(function).__name__} (is TRITON_INTERPRET set?)")
    backend = make_backend(gpu_target(kind, target))
    kwargs.setdefault("debug", bool(function.debug))
    binder = create_function_from_signature(function.signature, function.params, backend)
    named, specialization, options = binder(*args, **kwargs)
    options, signature, constants, attributes = function._pack_args(backend, kwargs, named, specialization, options)
    return ASTSource(function, signature, constants, attributes), options, named


def compile_source(source: Any, options: Any, kind: str, target: int | str) -> Any:
    import triton

    return triton.compile(source, target=gpu_target(kind, target), options=options.__dict__)


def gpu_target(kind: str, target: int | str) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget(kind, target, 64 if kind == "hip" else 32)


def scratch_buffer(name: str, size: int) -> Buffer | None:
    return Buffer(np.empty(size, np.uint8), name, initialised=False) if size else None


def expanded(kind: Any, value: Any, name: str, maps: Iterator[Any] | None, buffers: Mapping[int, Buffer]) -> Iterator[Any]:
    """The PTX's arguments for one of the function's. `maps`: the compiler's metadata of tensor maps; None: it made none."""
    if isinstance(kind, tuple):
        for i, (inner, each) in enumerate(zip(kind, value, strict=True)):
            yield from expanded(inner, each, f"{name}[{i}]", maps, buffers)
    elif kind == "constexpr":
        return
    elif kind.startswith("tensordesc"):
        base = buffers.get(id(value.base)) or Buffer(value.base, name)
        if maps is not None:
            yield tensor_map(value, next(maps), base, name)
        else:
            yield base
            yield from [np.int64(n) for n in (*value.shape, *value.strides)]
            yield from (np.uint8(value.padding == "nan"), np.uint8(value.round_f32_to_tf32))
        yield from [np.int32(n) for n in value.shape]
        yield from [np.int64(n) for n in value.strides]
    elif is_array(value):
        yield buffers.get(id(value)) or Buffer(value, name)
    else:
        yield scalar(kind, value)


def scalar(kind: str, value: Any) -> Any:
    """A number as its type has it."""
    if kind == "bf16":
        import torch

        return torch.tensor(float(value), dtype=torch.bfloat16).view(torch.int16).numpy()[()]
    floats = {"fp16": np.float16, "fp32": np.float32, "f32": np.float32, "fp64": np.float64}
    return floats[kind](value) if kind in floats else int(value)


def tensor_map(descriptor: Any, metadata: Mapping[str, Any], base: Buffer, name: str) -> TensorMap:
    """What the driver's launcher encodes for a host tensor descriptor."""
    if metadata["fp4_padded"] or metadata.get("is_im2col"):
        raise ValueError(f"argument {name}: im2col and padded 4-bit tensor maps are not supported")
    kind = "tf32" if descriptor.round_f32_to_tf32 else TYPES[metadata["elem_type"]]
    size = TYPE_BYTES[TYPES.index(kind)]
    return TensorMap(
        base,
        metadata["block_size"],
        sizes=descriptor.shape,
        strides=[size * s for s in descriptor.strides],
        element_type=kind,
        swizzle=SWIZZLES[metadata["swizzle"]],
        oob_fill=descriptor.padding,
    )
