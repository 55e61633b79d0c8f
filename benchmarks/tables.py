"""Rewrites the results table of README.md from the stored results: python -m benchmarks.tables. Nobody types a number."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mpkernels.doctor import table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results/cpu.json"
MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def results_table(results: dict[str, Any]) -> str:
    rows = [["what", "ratio", "bar", "against"]]
    for row in results["rows"]:
        at_most = row.get("at_most")
        bar = f">= {row['bar']:g}x" if row["bar"] is not None else f"<= {at_most:g}x" if at_most is not None else ""
        rows.append([row["case"], f"{row['ratio']:.2f}x", bar, row["against"]])
    return table(rows)


def rewrite(text: str) -> str:
    """The text with the part between the marks made anew."""
    results = json.loads(RESULTS.read_text())
    return MARKED.sub(lambda m: f"{m[1]}\n{results['machine']}.\n\n{results_table(results)}\n\n{m[2]}", text)


def main() -> int:
    readme = ROOT / "README.md"
    readme.write_text(rewrite(readme.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
