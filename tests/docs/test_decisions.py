"""Every decision has a page and a row in the index, and every number that is referred to is a decision."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prodpool
from tests.support import ROOT

pytestmark = pytest.mark.once

DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted(DECISIONS.glob("0*.md"))
# As comments and pages refer to it: (D5), "docs/decisions, D5", "D3, D14, D15".
REFERENCE = re.compile(r"\bD(\d{1,2})\b(?!\[)")


def number(page: Path) -> int:
    return int(page.name[:4])


def title(page: Path) -> str:
    """Return the heading of a decision, without its number."""
    heading = page.read_text().splitlines()[0]
    start = f"# D{number(page)}. "
    assert heading.startswith(start), f"{page.name} begins with {heading!r}"
    return heading.removeprefix(start)


def test_the_index_lists_every_page() -> None:
    """The index has one row for each page: its number, its title, and the date that the page gives."""
    rows = re.findall(
        r"^\| D(\d+) \| \[(.*)\]\((.*)\) \| ([\d-]+) \|", (DECISIONS / "index.md").read_text(), re.MULTILINE
    )
    dates = {
        page.name: re.search(r"^\*Decided on ([\d-]+)", page.read_text(), re.MULTILINE) for page in PAGES
    }
    assert rows == [
        (str(number(page)), title(page), page.name, found[1] if (found := dates[page.name]) else "no date")
        for page in PAGES
    ]


def test_no_number_is_used_twice() -> None:
    """Each decision has a number of its own."""
    numbers = [number(page) for page in PAGES]
    assert numbers == sorted(set(numbers))


def test_what_is_referred_to_is_there() -> None:
    """Each D-number in the code, the benchmarks and the pages is that of a decision."""
    assert prodpool.__file__ is not None
    sources = [
        *Path(prodpool.__file__).parent.rglob("*.py"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
    ]
    numbers = {number(page) for page in PAGES}
    unknown = [
        f"{path.name}: D{found}"
        for path in sources
        for found in REFERENCE.findall(path.read_text())
        if int(found) not in numbers
    ]
    assert unknown == []
