"""What Triton makes of every launch of the ops, for one target: python tests/assembled_triton.py sm_90|...|gfx950 prints JSON.

The launches are recorded from calls of the ops, so that types, alignment and configurations are those of real ones. It is a
program because Triton ends the process, instead of raising, for some of what it cannot compile.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from assembled import MATRIX, Assembled, cuobjdump, main_loop, opcode
from ptx_emulator.triton_launch import compile_source, specialized

import mpkernels as mp
from mpkernels import triton_launch
from mpkernels.triton_launch import Launch, Target

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx950")


@dataclass(frozen=True)
class Compiled:
    """One launch's kernel. instructions: opcodes with modifiers, how often each is there; of gfx950 the assembler's mnemonics.

    loop: of products on NVIDIA's GPUs, assembled.main_loop.
    """

    case: str
    kernel: str
    warps: int
    registers: int
    stack: int
    spilled: int
    shared: int
    instructions: dict[str, int]
    loop: dict[str, int] = field(default_factory=dict)

    def count(self, pattern: str) -> int:
        return sum(n for code, n in self.instructions.items() if re.match(pattern, code))


@dataclass
class Recorder:
    """A Launcher that only notes what it was to launch."""

    of: Target
    launches: list[Launch] = field(default_factory=list)

    def why_not(self, device: torch.device) -> None:
        return None

    def target(self, device: torch.device) -> Target:
        return self.of

    def launch(self, launch: Launch) -> None:
        self.launches.append(launch)


def target_of(name: str) -> Target:
    return Target("hip", name, 256) if name.startswith("gfx") else Target("cuda", int(name.removeprefix("sm_")), 132)


def multi_tensor_calls() -> dict[str, Any]:
    one, found = torch.ones(()), torch.zeros(())
    sizes = (40_000, 5, 1 << 14)

    def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        return [torch.zeros(n, dtype=dtype) for n in sizes]

    steps = [torch.zeros(()) for _ in sizes]
    low, scaled = {"backend": "triton"}, {"inv_loss_scale": one, "grad_norm": one, "max_grad_norm": 1.0, "found_inf": found}
    calls: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        grads, copies = tensors(dtype), [] if dtype == torch.float32 else tensors(dtype)
        calls[f"unscale_and_check_ {name}"] = lambda g=grads: mp.unscale_and_check_(g, one, found, **low)
        calls[f"grad_norm_and_check {name}"] = lambda g=grads: mp.grad_norm_and_check(g, one, found, **low)
        for suffix, amaxes in (("", None), (", amaxes", list(torch.zeros(len(sizes)).unbind()))):
            common = {"lr": 1e-3, "weight_decay": 0.1, "param_amaxes": amaxes, **scaled, **low}
            calls[f"adamw_update_ {name}{suffix}"] = lambda g=grads, c=copies, common=common: mp.adamw_update_(
                tensors(), tensors(), tensors(), steps, c, g, beta1=0.9, beta2=0.95, eps=1e-8, **common
            )
            calls[f"sgd_update_ {name}{suffix}"] = lambda g=grads, c=copies, common=common: mp.sgd_update_(
                tensors(), tensors(), steps, c, g, momentum=0.9, dampening=0.0, nesterov=False, **common
            )
    return calls


def tensor_calls() -> dict[str, Any]:
    one = torch.ones(())
    low = {"backend": "triton"}
    histories = [torch.zeros(1024), torch.zeros(1024)]
    trackers = torch.zeros((), dtype=torch.int32), torch.ones((), dtype=torch.int32)
    calls: dict[str, Any] = {
        "compute_scale": lambda: mp.compute_scale(one, E4M3, **low),
        "update_delayed_scales_": lambda: mp.update_delayed_scales_(
            histories, [one.clone(), one.clone()], [one.clone(), one.clone()], one.clone(), [448.0, 57344.0], **low
        ),
        "update_loss_scale_": lambda: mp.update_loss_scale_(one.clone(), *trackers, torch.zeros(()), 2.0, 0.5, 2000, 1, **low),
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, name = torch.zeros(512, 1024, dtype=dtype), str(dtype).removeprefix("torch.")
        calls[f"amax {name}"] = lambda x=x: mp.amax(x, **low)
        calls[f"quantize {name} -> E4M3, q_t"] = lambda x=x: mp.quantize(x, one, E4M3, transpose=True, **low)
    x = torch.zeros(512, 1024, dtype=torch.bfloat16)
    calls["quantize bfloat16 -> E4M3"] = lambda: mp.quantize(x, one, E4M3, **low)
    calls["quantize bfloat16 -> E5M2"] = lambda: mp.quantize(x, one, E5M2, **low)
    calls["quantize_current bfloat16, q_t"] = lambda: mp.quantize_current(x, E4M3, transpose=True, **low)
    return calls


def product_calls() -> dict[str, Any]:
    calls = {}
    one, bias = torch.ones(()), torch.zeros(512, dtype=torch.bfloat16)

    def codes(rows: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(rows, 1024, dtype=torch.uint8).view(dtype)

    for rows, fast in ((16, False), (64, False), (512, False), (512, True)):
        calls[f"scaled_mm {rows} rows{', fast' * fast}"] = lambda m=rows, fast=fast: mp.scaled_mm(
            codes(m, E4M3), codes(512, E4M3), one, one, bias=bias, use_fast_accum=fast, backend="triton"
        )
    calls["scaled_mm E4M3 x E5M2"] = lambda: mp.scaled_mm(codes(512, E4M3), codes(512, E5M2), one, one, backend="triton")
    out = torch.zeros(512, 512)
    calls["scaled_mm accumulating"] = lambda: mp.scaled_mm(
        codes(512, E5M2), codes(512, E4M3), one, one, out=out, accumulate=True, backend="triton"
    )
    return calls


def recorded(target: str) -> dict[str, list[Launch]]:
    """The launches of each call."""
    found = {}
    for name, call in (tensor_calls() | multi_tensor_calls() | product_calls()).items():
        recorder = Recorder(target_of(target))
        with triton_launch.using(recorder):
            call()
        found[name] = recorder.launches
    return found


def compile_launch(case: str, launch: Launch, target: Target) -> Compiled:
    source, options, _ = specialized(launch.kernel, launch.args, {**launch.constants, **launch.options}, target.kind, target.arch)
    made = compile_source(source, options, target.kind, target.arch)
    facts = cuda_facts(made.asm["cubin"]) if target.kind == "cuda" else amd_facts(made.asm["amdgcn"])
    return Compiled(case, made.metadata.name, launch.options["num_warps"], shared=made.metadata.shared, **facts)


def cuda_facts(cubin: bytes) -> dict[str, Any]:
    """What is spilled is written to local memory: STL."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump()), "-sass", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage, text[:500]
    lines = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.*?);", text, re.MULTILINE)
    counts = counted(map(opcode, lines))
    spilled = sum(n for code, n in counts.items() if code.startswith("STL"))
    facts = {"registers": int(usage[1]), "stack": int(usage[2]), "spilled": spilled, "instructions": counts}
    if any(MATRIX.match(code) for code in counts):
        facts["loop"] = dict(main_loop(Assembled(int(usage[1]), int(usage[2]), spilled, 0, 0, text)))
    return facts


def amd_facts(text: str) -> dict[str, Any]:
    def number(name: str) -> int:
        match = re.search(rf"\.{name}:\s*(\d+)", text)
        return int(match[1]) if match else 0

    counts = counted(match[1] for match in re.finditer(r"^\s+([a-z]\w+)\s", text, re.MULTILINE))
    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "spilled": number("vgpr_spill_count"),
        "instructions": counts,
    }


def counted(codes: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for code in codes:
        counts[code] = counts.get(code, 0) + 1
    return counts


def main(target: str) -> None:
    """One line of JSON for each different kernel of each call."""
    for case, launches in recorded(target).items():
        for launch in launches:
            print(json.dumps(asdict(compile_launch(case, launch, target_of(target)))), flush=True)


@cache
def assemble(target: str) -> list[Compiled]:
    """In a process of its own."""
    run = subprocess.run([sys.executable, __file__, target], capture_output=True, text=True)
    assert run.returncode == 0, f"{target} ended with {run.returncode} after {run.stdout.splitlines()[-1:]}\n{run.stderr[-3000:]}"
    return [Compiled(**json.loads(line)) for line in run.stdout.splitlines()]


if __name__ == "__main__":
    main(sys.argv[1])
