"""Configurations of Triton kernels that were measured on a device, kept in a file: `tune`.

What is chosen for a launch is one dictionary lookup; nothing is ever measured by a call of an op.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import config
from .dispatch import OPS, BackendUnavailable

Key = tuple[str | int | bool, ...]
Choice = tuple[Any, ...]
REPEATS = 20
trying: dict[Key, Choice] = {}  # what `tune` is measuring


def shape_class(*sizes: int) -> tuple[int, ...]:
    """For each size, the power of two that it takes: sizes of one class share a configuration."""
    return tuple((size - 1).bit_length() if size else -1 for size in sizes)


def chosen(key: Key) -> Choice | None:
    """What was measured to be the fastest for a key (device's name, op, classes), if anything was."""
    return trying.get(key) or kept().get(key)


def file() -> Path:
    """Of these versions: another package or compiler may have other kernels."""
    from triton import __version__ as triton_version

    from . import __version__

    return Path(config.CACHE_DIR.read()).expanduser() / f"tuned-{__version__}-triton-{triton_version}.json"


@functools.cache
def kept() -> dict[Key, Choice]:
    """The file's content, read once."""
    try:
        return {tuple(key): tuple(choice) for key, choice in json.loads(file().read_text())}
    except FileNotFoundError:
        return {}


def keep(key: Key, choice: Choice) -> None:
    """Adds to what the file has now, which another process may have written, and replaces it in one step."""
    kept.cache_clear()
    everything = kept()
    everything[key] = choice
    file().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file().parent, delete=False) as made:
        json.dump(list(everything.items()), made, indent=1)
    os.replace(made.name, file())


def microseconds(call: Callable[[], None], device: torch.device) -> float:
    """The median by the device's clock, each time with none of the operands in the L2 cache."""
    flush = torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.uint8, device=device)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    with torch.cuda.device(device):
        call()  # compiles
        for begin, end in pairs:
            flush.zero_()
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
    return 1000 * statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def tune(op: str, *args: Any, **kwargs: Any) -> dict[str, float]:
    """Measures the configurations of an op's Triton kernel for one call, and keeps the fastest.

    From then on, in this process and in later ones, calls on a device of that name whose sizes round up to the same powers of two
    run with it. Nothing else changes: an op never measures anything. Takes some milliseconds a configuration, and compiles each.
    The file is in the directory that the environment variable MPKERNELS_CACHE_DIR names. What a call would write, `out`
    included, is written to copies.

    Args:
        op: "scaled_mm" or "scaled_mm_out"; other ops have one configuration.
        *args, **kwargs: the call's arguments, as for `explain`.

    Returns:
        Microseconds with a cold L2 cache for each configuration that fits the device, the fastest first.

    Raises:
        BackendUnavailable: the Triton backend cannot run the call here, for instance because there is no GPU.
        ValueError: there is no such op, or it has nothing to tune.

    Example:
        >>> import torch, mpkernels as mp
        >>> q, one = torch.zeros(64, 64).to(torch.float8_e4m3fn), torch.ones(())
        >>> mp.tune("scaled_mm", q, q, one, one)
        Traceback (most recent call last):
            ...
        mpkernels.dispatch.BackendUnavailable: mpkernels.tune: scaled_mm: the data is on cpu, not on a GPU
    """
    if op not in OPS:
        raise ValueError(f"op must be one of {', '.join(sorted(OPS))}, got {op!r}")
    what = OPS[op]
    module = what.modules["triton"]
    if isinstance(module, str):
        raise BackendUnavailable(f"mpkernels.tune: {op}: {module}")
    if not hasattr(module, "configurations"):
        raise ValueError(f"{op} has one configuration: there is nothing to tune")
    bound = what.copy_written(what.bind(*args, **kwargs))
    what.check(*bound)
    asked = bound if what.arguments is None else what.arguments((), *bound)
    if (why := module.why_not(*asked)) is not None:
        raise BackendUnavailable(f"mpkernels.tune: {op}: {why}")
    outputs = what.outputs(*bound)
    call = (*outputs, *bound) if what.arguments is None else what.arguments(outputs, *bound)
    key, configurations = module.configurations(*call)
    found = measured(lambda: module.run(*call), key, configurations, asked[0].device)
    keep(key, min(found, key=found.__getitem__))
    return {str(c): found[c] for c in sorted(found, key=found.__getitem__)}


def measured(call: Callable[[], None], key: Key, configurations: list[Choice], device: torch.device) -> dict[Choice, float]:
    """Microseconds of those that fit."""
    from triton.runtime.errors import OutOfResources

    found = {}
    try:
        for configuration in configurations:
            trying[key] = configuration
            try:
                found[configuration] = microseconds(call, device)
            except OutOfResources:
                continue
    finally:
        trying.pop(key, None)
    return found
