"""Parts of pages that are written by a program, between two comments that say so."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)


def renewed(page: Path, name: str, part: str, tool: str) -> str:
    """Return the page's text with ``part`` in the place of the part of that name."""
    begin, end = f"<!-- {name}: made by {tool} -->\n", f"<!-- end of {name} -->\n"
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page.relative_to(ROOT)}: there must be one {begin!r} and one {end!r}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{part}{end}{rest.partition(end)[2]}"


def write(parts: Iterable[tuple[str, str, str]], tool: str) -> None:
    """Write the parts, each given as page, name and text; with ``--check`` only say which is out of date."""
    for name, part, text in parts:
        page = ROOT / name
        new = renewed(page, part, text, tool)
        if "--check" in sys.argv and new != page.read_text(encoding="utf-8"):
            raise SystemExit(f"{name}: the table of {part} is out of date: run `make tables`")
        if "--check" not in sys.argv:
            page.write_text(new, encoding="utf-8")
