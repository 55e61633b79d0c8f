"""The loss curves as one SVG."""

from __future__ import annotations

import io
import math
from itertools import accumulate
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLORS = ("#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7")  # Okabe and Ito: distinct to colour-blind readers too
SMOOTHING = 0.9  # weight of the past in the running mean of the noisy training losses


def smooth(losses: list[float]) -> list[float]:
    """Exponential running mean without the bias towards the first value."""
    sums = accumulate(losses, lambda mean, loss: SMOOTHING * mean + (1 - SMOOTHING) * loss, initial=0.0)
    return [mean / (1 - SMOOTHING**count) for count, mean in enumerate(sums) if count]


def _finish(axes: Axes, title: str, xlabel: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def svg(results: dict[str, Any]) -> str:
    """Loss by step, its difference from fp32 by step, loss by time."""
    figure, (by_step, difference, by_time) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    runs = {name: smooth([math.nan if loss is None else loss for loss in row["losses"]]) for name, row in results["runs"].items()}
    for (name, losses), color in zip(runs.items(), COLORS, strict=False):
        steps = range(1, len(losses) + 1)
        step_seconds = results["runs"][name]["step_ms"] / 1e3
        by_step.plot(steps, losses, color=color, label=name, linewidth=1.5)
        by_time.plot([step * step_seconds for step in steps], losses, color=color, linewidth=1.5)
        if "fp32" in runs:
            relative = [100 * (loss / base - 1) for loss, base in zip(losses, runs["fp32"], strict=True)]
            difference.plot(steps, relative, color=color, linewidth=1.5)
    by_step.axhline(results["text"]["unigram_entropy"], color="#888888", linewidth=1, linestyle=":", label="byte frequencies")
    by_step.legend(frameon=False, fontsize=8)
    _finish(by_step, "Training loss (running mean, nats a byte)", "step")
    _finish(difference, "Difference from fp32 (%)", "step")
    _finish(by_time, "Training loss against training time", "seconds")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "train_lm", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
