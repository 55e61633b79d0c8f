"""Rewrites the tables of docs/training-benchmarks.md from the stored results: python -m benchmarks.training.tables"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpkernels.doctor import table

from ..memory import Bytes
from .meters import COMPONENTS

PAGE = Path(__file__).parents[2] / "docs/training-benchmarks.md"
RESULTS = Path(__file__).parents[1] / "results"
Result = dict[str, Any]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def steps_table(run: Result) -> str:
    head = ["variant", "step (p20 to p80), ms", f"{run['unit']}/s", "x torch", "x fp32", "peak, MB", "loss"]
    rows = []
    for name, row in run["variants"].items():
        spread = " to ".join(_milliseconds(row[key]) for key in ("step_p20_s", "step_p80_s"))
        ratios = [_times(row["speedup"]), _times(row["speedup_over_fp32"])]
        peak, loss = f"{row['memory']['peak'] / 1e6:.1f}", f"{row['loss']:.3f}"
        rows.append([name, f"{_milliseconds(row['step_s'])} ({spread})", f"{row['items_per_s']:.0f}", *ratios, peak, loss])
    return table([head, *rows])


def components_table(run: Result) -> str:
    rows = []
    for name, row in run["variants"].items():
        cells = [f"{_milliseconds(row['components'][c]['seconds'])} / {row['components'][c]['calls']}" for c in COMPONENTS]
        rows.append([name, *cells, _milliseconds(row["rest_s"])])
    return table([["ms / calls", *COMPONENTS, "rest"], *rows])


def run_text(run: Result) -> str:
    """One run: what was run, where, and its two tables."""
    sizes = ", ".join(f"{name} {value}" for name, value in run["configuration"].items())
    lines = [
        f"{run['machine']}. {run['parameters'] / 1e6:.1f} M parameters ({sizes}), {run['steps']} steps of "
        f"{run['items'] // run['steps']} {run['unit']}.",
        *(f"Not measured: {name} ({why})." for name, why in run["missing"].items()),
        *(["FP16 products were computed in FP32: this CPU has no FP16 arithmetic."] if run["fp16_products_in_fp32"] else []),
    ]
    return "\n".join(lines) + f"\n\n{steps_table(run)}\n\n{components_table(run)}"


def memory_table(results: Result) -> str:
    rows = [["recipe", "bytes a parameter", "of that", "weight copies until backward", "bytes an activation", "how"]]
    for row in results["rows"]:
        shown, how = Bytes(**(row["counted"] or row["formula"])), "counted" if row["counted"] else f"formula: {row['source']}"
        per_value = [f"{shown.weight_copies:g}" if shown.weight_copies else "", f"{shown.activation:g}"]
        rows.append([row["recipe"], f"{shown.state:g}", Bytes(**row["formula"]).formula, *per_value, how])
    return table(rows)


def rewrite(text: str) -> str:
    """The page with each part between its marks made anew."""
    runs = {run["model"]: run for run in json.loads((RESULTS / "train-cpu.json").read_text())["runs"]}
    memory = json.loads((RESULTS / "memory.json").read_text())
    parts: dict[str, Callable[[], str]] = {
        "train-gpt": lambda: run_text(runs["gpt"]),
        "train-dit": lambda: run_text(runs["dit"]),
        "memory": lambda: memory_table(memory),
    }
    for name, make in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"no <!-- {name} --> ... <!-- /{name} --> part found")
        text = marked.sub(lambda m, make=make: f"{m[1]}\n{make()}\n\n{m[2]}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(rewrite(PAGE.read_text()))
