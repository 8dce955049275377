"""Rows of figures, as a table, as JSON, and in benchmarks/README.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.sampling import Series, Spread

README = Path(__file__).with_name("README.md")
_COLUMNS = ("experiment", "side", "of", "median", "quartiles", "ratio", "quartiles", "target")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        experiment: What was done.
        side: Who did it.
        of: What was measured: CPU, wall, ...
        value: The figure, in ``unit``.
        ratio: The same relative to the base of the experiment, paired by round; None where it has none.
        target: What the ratio (without one, the value) must not exceed; None where nothing is promised.
    """

    experiment: str
    side: str
    of: str
    value: Spread
    unit: str
    ratio: Spread | None = None
    target: float | None = None

    @classmethod
    def of_series(
        cls, experiment: str, side: str, of: str, series: Series, measure: str, *, base: Series,
        target: float | None = None,
    ) -> Row:  # fmt: skip
        """Summarise the rounds of one side against those of the base."""
        spread = Spread.of(series.column(measure))
        return cls(experiment, side, of, spread, "us/task", series.ratio(base, measure), target)

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None without one."""
        if self.target is None:
            return None
        return (self.ratio or self.value).median <= self.target

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, column by column."""
        verdict = {None: "", True: f"<= {self.target} met", False: f"<= {self.target} MISSED"}[self.met]
        ratio = ("", "") if self.ratio is None else _text(self.ratio, ".2f")
        value, quartiles = _text(self.value, ".2f" if abs(self.value.median) < 100 else ",.0f")
        return (self.experiment, self.side, self.of, f"{value} {self.unit}", quartiles, *ratio, verdict)


def _text(spread: Spread, form: str) -> tuple[str, str]:
    return f"{spread.median:{form}}", f"{spread.low:{form}} - {spread.high:{form}}"


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table, which reads well in a terminal too."""
    lines = [_COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def machine() -> dict[str, Any]:
    """Describe what the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def as_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    return {"machine": machine(), "rows": [asdict(row) | {"met": row.met} for row in rows]}


def write(rows: Sequence[Row], command: str) -> None:
    """Put the figures of this Python version into the README, in the place of its last ones."""
    found = machine()
    minor = ".".join(platform.python_version_tuple()[:2])
    begin, end = f"<!-- figures {minor} -->", f"<!-- end of figures {minor} -->"
    where = f"{found['cpu']}, {found['cores']} cores, {found['system']}, {found['date']}: `{command}`"
    section = f"{begin}\n### {found['python']}\n\n{where}\n\n{table(rows)}\n{end}"
    text = README.read_text(encoding="utf-8")
    block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    known = block.search(text)
    text = block.sub(lambda _: section, text) if known else f"{text.rstrip()}\n\n{section}\n"
    README.write_text(text, encoding="utf-8")


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()
