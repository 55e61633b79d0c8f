"""Draws the pictures of docs/benchmarks.md from stored results: python -m benchmarks.figures.

The same results, with the same matplotlib, give the same bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, results
from .results import Row

FOLDER = Path(__file__).parents[1] / "docs/figures"
SETTINGS: Any = {"svg.hashsalt": "mpkernels", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
DIRECTIONS = ("forward", "dgrad", "wgrad")
ROOFLINE_OPS = ("scaled_mm",)
BANDWIDTH_OPS = {  # op -> how the names of the cases begin
    "quantize": "bfloat16 -> float8_e4m3fn + transpose",
    "quantize_current": "bfloat16 + transpose",
    "amax": "bfloat16",
}


def _measured(rows: list[Row], ops: tuple[str, ...]) -> list[Row]:
    return [
        row
        for row in rows
        if row["op"] in ops and "median_s" in row and row["family"] != "tiny" and row["backend"] != "reference"
    ]


def roofline(axes: Any, rows: list[Row]) -> None:
    """Rates of matrix products over flops per byte, under the best matmul and the bandwidth at the largest size."""
    found = _measured(rows, ROOFLINE_OPS)
    peak = max(row["matmul_flops_per_s"] for row in found) / 1e12
    memory = max((row["bytes"], row["memory_bytes_per_s"]) for row in rows if row.get("memory_bytes_per_s"))[1] / 1e12
    points = {
        family: [row for row in found if row["family"] == family] for family in dict.fromkeys(row["family"] for row in found)
    }
    edges = [row["flops"] / row["bytes"] for row in found]
    intensity = np.geomspace(min(edges) / 2, max(edges) * 2)
    axes.plot(
        intensity,
        np.minimum(peak, memory * intensity),
        color="black",
        linewidth=1,
        label="memory bandwidth, matmul peak: measured",
    )
    for family, of in points.items():
        x, y = ([row["flops"] / row[per] for row in of] for per in ("bytes", "median_s"))
        axes.plot(x, np.array(y) / 1e12, "o", markersize=4, label=family)
    axes.set(xscale="log", yscale="log", xlabel="flops per byte that must move", ylabel="TFLOP/s")
    axes.legend(fontsize=7)


def bandwidth(axes: Any, rows: list[Row]) -> None:
    """Bytes per second over bytes moved, of bf16 squares, beside an in-place update of as many bytes."""
    found = [row for row in _measured(rows, tuple(BANDWIDTH_OPS)) if row["family"] == "square"]
    found = [row for row in found if row["case"].startswith(BANDWIDTH_OPS[row["op"]])]
    streams = sorted((row["bytes"], row["memory_bytes_per_s"] / 1e9) for row in found if row["op"] == "quantize")
    axes.plot(*zip(*streams, strict=True), "--", color="black", linewidth=1, label="in-place update of as many bytes")
    for op, backend in dict.fromkeys((row["op"], row["backend"]) for row in found):
        chosen = [row for row in found if (row["op"], row["backend"]) == (op, backend)]
        points = sorted((row["bytes"], row["bytes"] / row["median_s"] / 1e9) for row in chosen)
        axes.plot(*zip(*points, strict=True), "o-", markersize=4, linewidth=1, label=f"{op} [{backend}]")
    axes.set(xscale="log", xlabel="bytes that must move", ylabel="GB/s", ylim=(0, None))
    axes.legend(fontsize=7)


def speedup(axes: Any, rows: list[Row]) -> None:
    """The first backend's scaled_mm against the bf16 matmul: a layer each row, a product each column."""
    products = [row for row in _measured(rows, ("scaled_mm",)) if row["direction"]]
    chosen = [row for row in products if row["backend"] == products[0]["backend"]]
    found = {(row["layer"], row["direction"]): row["peers"][0]["ratio"] for row in chosen}
    layers = list(dict.fromkeys(layer for layer, _ in found))
    grid = np.array([[found.get((layer, direction), np.nan) for direction in DIRECTIONS] for layer in layers])
    largest = max(2.0, float(np.nanmax(grid)))
    axes.pcolormesh(np.log2(grid), cmap="RdYlGn", vmin=-np.log2(largest), vmax=np.log2(largest))
    axes.invert_yaxis()
    for (i, j), ratio in np.ndenumerate(grid):
        if not np.isnan(ratio):
            axes.text(j + 0.5, i + 0.5, f"{ratio:.2f}x", ha="center", va="center")
    axes.set_xticks(np.arange(len(DIRECTIONS)) + 0.5, DIRECTIONS)
    axes.set_yticks(np.arange(len(layers)) + 0.5, layers)


KINDS: dict[str, tuple[str, Callable[[Any, list[Row]], None], tuple[float, float]]] = {
    "roofline": ("scaled_mm under the roofline", roofline, (6.4, 4.0)),
    "bandwidth": ("Bandwidth over size", bandwidth, (6.4, 4.0)),
    "speedup": ("scaled_mm, times as fast as torch's bf16 matmul", speedup, (5.0, 4.6)),
}


def sources() -> Iterator[tuple[str, str, list[Row]]]:
    """(stem, name of the device, rows) of each file of results."""
    for file in results.files():
        facts, rows = results.load(file)
        yield file.stem, machine.described(facts).partition(", torch")[0], rows


def titles() -> Iterator[tuple[str, str]]:
    """File name and title of each picture."""
    for stem, name, _ in sources():
        for kind, (title, _, _) in KINDS.items():
            yield f"{stem}-{kind}.svg", f"{title}: {name}"


def draw(kind: str, name: str, rows: list[Row]) -> str:
    """A picture as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib.figure import Figure

    title, plot, size = KINDS[kind]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(f"{title}\n{name}", fontsize=9)
        plot(axes, rows)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return "".join(line.rstrip() + "\n" for line in written.getvalue().splitlines())


def pictures() -> Iterator[tuple[str, str]]:
    """File name and SVG of each."""
    for stem, name, rows in sources():
        for kind in KINDS:
            yield f"{stem}-{kind}.svg", draw(kind, name, rows)


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures():
        (FOLDER / name).write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
