"""Rewrites the tables of results in README.md and docs/benchmarks.md: python -m benchmarks.tables. Nobody types a number.

Each stands between `<!-- name -->` and `<!-- /name -->` and is made from the files in benchmarks/results/.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mpkernels.doctor import table

from . import figures, machine, results
from .peers import BARE
from .results import Row
from .run import rate

ROOT = Path(__file__).parents[1]


def measured() -> Iterator[tuple[str, str, list[Row]]]:
    """(the file's stem, what was measured, its rows), the CPU first."""
    for file in results.files():
        facts, rows = results.load(file)
        days = sorted({row["date"] for row in rows if "date" in row})
        commits = sorted({row["commit"] + "+" * row["dirty"] for row in rows if "commit" in row})
        when = f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
        packages = dict(item for row in rows for item in row.get("packages", {}).items())
        what = ", ".join([machine.described(facts), *(f"{package} {version}" for package, version in packages.items())])
        yield file.stem, f"{what}; commit {', '.join(commits)}, {when}.", rows


def bars() -> str:
    """What the project promises, and what is so."""
    parts = []
    for _, what, rows in measured():
        found = [["what", "measured", "bar", "", "against"]]
        for row in rows:
            for bar in row["bars"]:
                cells = [f"{row['op']}: {row['case']}", f"{bar['value']:.2f}{bar['unit']}", results.limit(bar)]
                found.append([*cells, "met" if bar["met"] else "missed", bar["against"]])
        if len(found) > 1:
            parts.append(f"{what}\n\n{table(found)}")
    return "\n\n".join(parts)


def gpus() -> str:
    names = [what for stem, what, _ in measured() if stem != "cpu"]
    return "\n".join(names) if names else "No GPU has been measured yet: `make bench-gpu` does it."


def measurements() -> str:
    """Every row: time, rate, fraction of the ceiling, and the ratio to each peer."""
    parts = []
    for stem, what, rows in measured():
        found = [["what", "backend", "time", "rate", "of the ceiling", "peer time / ours"]]
        for row in rows:
            if "median_s" not in row or row["family"] == "tiny":
                continue
            of_ceiling = "" if row["of_ceiling"] is None else f"{row['of_ceiling']:.0%}"
            peers = "; ".join(f"{peer['ratio']:.2f}x {peer['name']}" for peer in row["peers"])
            found.append([f"{row['op']} {row['case']}", row["backend"], duration(row["median_s"]), rate(row), of_ceiling, peers])
        parts.append(f"### {stem}\n\n{what}\n\n{table(found)}")
    return "\n\n".join(parts)


def host_overhead() -> str:
    """Microseconds of a call with next to nothing to do."""
    parts = []
    for stem, what, rows in measured():
        if stem != "cpu":
            continue
        found = [["call", "mpkernels", "a custom op that does nothing", "peers"]]
        for row in rows:
            if row.get("family") == "tiny":
                peers = {peer["name"]: peer["median_s"] * 1e6 for peer in row["peers"]}
                bare = f"{peers.pop(BARE):.2f} us" if BARE in peers else ""
                others = "; ".join(f"{us:.1f} us {name}" for name, us in peers.items())
                found.append([f"{row['op']} {row['case']}", f"{row['median_s'] * 1e6:.1f} us", bare, others])
        parts.append(f"{what}\n\n{table(found)}")
    return "\n\n".join(parts)


def missing_peers() -> str:
    """Who was asked and could not run."""
    lines = []
    for stem, _, rows in measured():
        reasons = dict(item for row in rows for item in row.get("missing", {}).items())
        lines += [f"- {stem}: {name}: {why}" for name, why in sorted(reasons.items())]
    return "\n".join(lines)


def pictures() -> str:
    return "\n".join(f"![{title}](figures/{name})\n" for name, title in figures.titles()).rstrip()


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.4g} us" if seconds < 1e-3 else f"{seconds * 1e3:.4g} ms"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": bars, "gpus": gpus},
    "docs/benchmarks.md": {
        "pictures": pictures,
        "host overhead": host_overhead,
        "measurements": measurements,
        "missing peers": missing_peers,
    },
}


def rewrite(page: str, text: str) -> str:
    """The page's text with the parts between its marks made anew."""
    for name, make in PAGES[page].items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"{page} has no <!-- {name} --> ... <!-- /{name} --> part")
        made = make().replace("\\", r"\\")
        text = marked.sub(rf"\1\n{made}\n\n\2", text)
    return text


def main() -> int:
    for page in PAGES:
        (ROOT / page).write_text(rewrite(page, (ROOT / page).read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
