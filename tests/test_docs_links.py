"""What the pages, recipes and comments point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.places import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
FILES = [
    *PAGES,
    *sorted((ROOT / "recipes").rglob("*.yaml")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "src").rglob("*.py")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A file of the checkout, as text names it; `*` stands for several.
PATH = re.compile(r"(?<![\w./-])(?:src|docs|tests|recipes|benchmarks)/[\w./*-]*\.(?:py|md|yaml|csv|png)\b")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_file_of_the_checkout_that_is_named_is_there():
    missing = [
        f"{file.relative_to(ROOT)}: {path}"
        for file in FILES
        for path in PATH.findall(file.read_text(encoding="utf-8"))
        if not any(ROOT.glob(path))
    ]
    assert missing == []
