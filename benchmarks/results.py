"""Files of results: JSON lines, the first the facts of the machine, then a row for each case and backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
Row = dict[str, Any]


def key(row: Row) -> tuple[str, str, str]:
    return row["op"], row["case"], row["backend"]


def bar(against: str, value: float, *, least: float | None = None, most: float | None = None, unit: str = "x") -> Row:
    """A figure that the project promises to be at least, or at most, something."""
    met = (least is None or value >= least) and (most is None or value <= most)
    return {"against": against, "value": value, "least": least, "most": most, "unit": unit, "met": met}


def limit(bar: Row) -> str:
    """The promise of a bar, as text."""
    sign, number = (">=", bar["least"]) if bar["least"] is not None else ("<=", bar["most"])
    return f"{sign} {number:g}{bar['unit']}"


def files() -> list[Path]:
    """The CPU's first."""
    return [*FOLDER.glob("cpu.jsonl"), *sorted(FOLDER.glob("gpu-*.jsonl"))]


def load(file: Path) -> tuple[dict[str, Any], list[Row]]:
    """The machine's facts and the rows."""
    first, *lines = file.read_text().splitlines()
    return json.loads(first), [json.loads(line) for line in lines]


def store(file: Path, machine: dict[str, Any], rows: list[Row]) -> None:
    """Rows that the file has already are replaced where they stand, others added. Rows of another machine are dropped."""
    stored: list[Row] = []
    if file.exists():
        stored_machine, stored = load(file)
        if stored_machine != machine:
            print(f"{file}: its rows were of another machine or torch, and are replaced")
            stored = []
    merged = {key(row): row for row in stored} | {key(row): row for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in (machine, *merged.values())))
