"""What the pages say is so: code blocks run, links lead somewhere, every public name has a docstring and an op page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import mpkernels as mp
from benchmarks import tables

ROOT = Path(__file__).parents[1]
PAGES = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_readme_example_trains():
    """The blocks share one namespace, as a reader who types them in turn would have."""
    namespace: dict[str, object] = {}
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["loss"] < 1.0


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_readme_names_only_existing_targets():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page} names `make {target}`"


@pytest.mark.parametrize("name", [n for n in mp.__all__ if callable(getattr(mp, n))])
def test_public_names_have_a_docstring_with_an_example_or_arguments(name):
    doc = getattr(mp, name).__doc__
    assert doc
    assert len(doc.strip().splitlines()[0]) > 20


@pytest.mark.parametrize("page", tables.PAGES)
def test_results_in_pages_are_the_stored_ones(page):
    text = (ROOT / page).read_text()
    assert tables.rewrite(page, text) == text, "run `make tables`"
