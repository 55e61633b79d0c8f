"""From what the runs have seen to numbers (results.json), a table (terminal) and a page (report.html)."""

from __future__ import annotations

import argparse
import html
import json
import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

import mpkernels as mp
from mpkernels import native

from . import curves, data, fp16_on_cpu, measure
from .measure import Seen

Results = dict[str, Any]
BASELINE = "fp32"
TEMPLATE = Path(__file__).with_name("report.html")


def facts(args: argparse.Namespace, corpus: data.Corpus, model: nn.Module) -> Results:
    """What is known before training: the configuration, the text, the versions."""
    device = args.device
    return {
        "config": {key: value if isinstance(value, int | float | list) else str(value) for key, value in vars(args).items()},
        "model": {
            "parameters": sum(p.numel() for p in model.parameters()),
            "parameters_in_converted_layers": sum(
                p.numel() for layer in measure.fp8_candidates(model) for p in layer.parameters()
            ),
        },
        "text": {
            "files": corpus.files,
            "train_bytes": len(corpus.train),
            "validation_bytes": len(corpus.validation),
            "unigram_entropy": corpus.unigram_entropy(),
        },
        "versions": {
            "mpkernels": mp.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}",
            "threads": torch.get_num_threads(),
            "cpu_capability": native.cpu_capability() or native.cpu_missing,
        },
        "fp16_products_in_fp32": fp16_on_cpu.is_needed(device, torch.float16),
    }


def introduction(facts: Results) -> str:
    model, text, versions = facts["model"], facts["text"], facts["versions"]
    return (
        f"GPT with {model['parameters'] / 1e6:.1f} M parameters, "
        f"{model['parameters_in_converted_layers'] / model['parameters']:.0%} of them in the layers that FP8 converts, "
        f"on {versions['device']} (torch {versions['torch']}, {versions['threads']} threads)\n"
        f"text: {text['files']} files of Python's standard library, {text['train_bytes'] / 1e6:.1f} MB to train on; "
        f"knowing only how often each byte occurs gives a loss of {text['unigram_entropy']:.3f}"
    )


def _median_ratio(baseline: list[float], other: list[float]) -> float:
    """Median over the turns of baseline time / other time, both of the same round. The first turn warms up."""
    return statistics.median(b / o for b, o in list(zip(baseline, other, strict=True))[1:] or zip(baseline, other, strict=True))


def _row(seen: Seen, baseline: Seen | None, tokens_per_step: int) -> Results:
    step_seconds = statistics.median(seen.turn_seconds[1:] or seen.turn_seconds)
    return {
        "step_ms": step_seconds * 1e3,
        "tokens_per_second": tokens_per_step / step_seconds,
        "speedup": _median_ratio(baseline.turn_seconds, seen.turn_seconds) if baseline else None,
        "saved_for_backward_bytes": seen.saved_bytes,
        "state_bytes": {**asdict(seen.state), "total": seen.state.total},
        "validation_loss": seen.validation_loss,
        "validation_loss_difference": seen.validation_loss / baseline.validation_loss - 1 if baseline else None,
        "skipped_steps": seen.skipped_steps,
        "underflow": {tensor: share.underflow for tensor, share in seen.fp8_shares.items()},
        "saturation": {tensor: share.saturation for tensor, share in seen.fp8_shares.items()},
        "losses": [loss if math.isfinite(loss) else None for loss in seen.losses],  # JSON has no NaN
        "turn_seconds": seen.turn_seconds,
    }


def results(facts: Results, seen: dict[str, Seen], sample: tuple[str, str], seconds: float) -> Results:
    """Everything, as it goes into results.json."""
    tokens_per_step = facts["config"]["batch"] * facts["config"]["context"]
    rows = {name: _row(run, seen.get(BASELINE), tokens_per_step) for name, run in seen.items()}
    return {**facts, "runs": rows, "sample": {"recipe": sample[0], "text": sample[1]}, "seconds": seconds}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _share(tensor_share: float | None) -> str:
    return "–" if tensor_share is None else f"{100 * tensor_share:.2g}%"


# One line of the table: its label and how a run's value is written.
Line = tuple[str, Callable[[Results], str]]
LINES: list[Line] = [
    ("step", lambda row: f"{row['step_ms']:.0f} ms"),
    ("tokens a second", lambda row: f"{row['tokens_per_second']:,.0f}"),
    ("speed-up over fp32", lambda row: "–" if row["speedup"] is None else f"{row['speedup']:.2f}x"),
    ("saved for backward", lambda row: _megabytes(row["saved_for_backward_bytes"])),
    ("weights", lambda row: _megabytes(row["state_bytes"]["weights"])),
    ("+ gradients", lambda row: _megabytes(row["state_bytes"]["gradients"])),
    ("+ optimizer state", lambda row: _megabytes(row["state_bytes"]["optimizer"])),
    ("= training state", lambda row: _megabytes(row["state_bytes"]["total"])),
    ("validation loss", lambda row: f"{row['validation_loss']:.4f}"),
    ("against fp32", lambda row: "–" if (d := row["validation_loss_difference"]) is None else f"{d:+.2%}"),
    ("skipped steps", lambda row: str(row["skipped_steps"])),
    ("underflow inputs", lambda row: _share(row["underflow"].get("input"))),
    ("underflow weights", lambda row: _share(row["underflow"].get("weight"))),
    ("underflow gradients", lambda row: _share(row["underflow"].get("grad_output"))),
    ("saturation inputs", lambda row: _share(row["saturation"].get("input"))),
    ("saturation weights", lambda row: _share(row["saturation"].get("weight"))),
    ("saturation gradients", lambda row: _share(row["saturation"].get("grad_output"))),
]


def _names(results: Results) -> list[str]:
    """The recipes, with a mark on the one that has a footnote."""
    return [name + " *" * (name == "fp16" and results["fp16_products_in_fp32"]) for name in results["runs"]]


FOOTNOTE = (
    "* This CPU has no FP16 arithmetic: the matrix products are computed in FP32 and rounded to FP16, as a GPU would round them. "
    "The losses are those of FP16; the speed says nothing about FP16 on other hardware."
)


def _footnote(results: Results) -> str:
    return FOOTNOTE if results["fp16_products_in_fp32"] and "fp16" in results["runs"] else ""


def terminal_table(results: Results) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, caption=_footnote(results), caption_justify="left")
    table.add_column("", no_wrap=True)
    for name in _names(results):
        table.add_column(name, justify="right")
    for label, spell in LINES:
        table.add_row(label, *map(spell, results["runs"].values()))
    return table


def _html_table(results: Results) -> str:
    head = "".join(f"<th>{name}</th>" for name in _names(results))
    body = "".join(
        f"<tr><th>{label}</th>" + "".join(f"<td>{spell(row)}</td>" for row in results["runs"].values()) + "</tr>\n"
        for label, spell in LINES
    )
    return f"<table>\n<tr><th></th>{head}</tr>\n{body}</table>"


def _definitions(values: Results) -> str:
    pairs = (f"<dt>{html.escape(key)}</dt><dd>{html.escape(_spell(value))}</dd>" for key, value in values.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) and value >= 1 else str(value)


def page(results: Results) -> str:
    """The report: one file, nothing loaded from elsewhere."""
    return Template(TEMPLATE.read_text()).substitute(
        introduction=html.escape(introduction(results)).replace("\n", "<br>"),
        table=_html_table(results),
        footnote=_footnote(results),
        curves=curves.svg(results),
        sample_recipe=results["sample"]["recipe"],
        sample=html.escape(results["sample"]["text"]),
        config=_definitions(results["config"]),
        model=_definitions(results["model"] | results["text"]),
        versions=_definitions(results["versions"]),
        minutes=f"{results['seconds'] / 60:.1f}",
    )


def write(results: Results, folder: Path) -> list[Path]:
    """Writes the page and the numbers behind it; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    page_path, json_path = folder / "report.html", folder / "results.json"
    page_path.write_text(page(results))
    json_path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return [page_path, json_path]
