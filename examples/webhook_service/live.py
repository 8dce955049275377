"""The live table in a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .acts import STEADY
from .screen import Moment, rate, seconds

_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 60
# Lines of the screen that are not the log, and columns that are not bars.
_FIXED_LINES = 23
_FIXED_COLUMNS = 52
# Times below this do not fill a bar: a millisecond's noise is not worth a look.
_LEAST_TOP = 0.1
# A burst goes over the top, so that the ordinary load keeps some height.
_TOP_RATE = 2 * STEADY
_BREAKER_STYLE = {"closed": "green", "open": "bold red", "half_open": "yellow"}


def spark(values: Sequence[float], top: float) -> str:
    """Draw values as a line of bars that are full at ``top``, and a dot for nothing."""
    return "".join("·" if value <= 0 else _SPARKS[min(7, round(value / top * 7))] for value in values)


def _coloured(bars: str, style: str) -> Text:
    text = Text(bars, style=style)
    text.highlight_regex("·+", "dim white")
    return text


@dataclass(slots=True)
class _Row:
    """One line of the table: label, value now, the height of its newest bar, the colours of both if not 0.

    A bar is full at ``top``, or at the greatest value of all rows with the same ``scale``.
    """

    label: str
    value: str
    height: float
    style: str = ""
    bars: str = "blue"
    top: float = 0.0
    scale: str = ""


def _rows(moment: Moment) -> list[_Row | None]:
    now, recent = moment.now, moment.recent
    ok = rate(recent.completed.get("ok", 0), recent)
    bad = rate(sum(n for result, n in recent.completed.items() if result != "ok"), recent)
    full, fast = (rate(recent.dropped.get(reason, 0), recent) for reason in ("full", "breaker_open"))
    lost = now.dropped.get("shutdown", 0)
    offered = rate(recent.offered, recent)
    alarm = "bold red" if now.queue_depth >= now.queue_capacity else "yellow" if now.queue_depth > 8 else ""
    busy = "yellow" if now.workers_busy >= now.workers else ""
    state = now.breaker
    breaker = {"closed": 0.0, "half_open": 0.5}.get(state, 1.0)
    depth, capacity = now.queue_depth, now.queue_capacity
    dwell = f"{seconds(recent.dwell_p50)} / {seconds(recent.dwell_p95)}"
    run = f"{seconds(recent.duration_p50)} / {seconds(recent.duration_p95)}"
    return [
        _Row("offered", f"{offered:.0f} /s", offered, top=_TOP_RATE),
        _Row("delivered", f"{ok:.0f} /s", ok, "green", "green", top=_TOP_RATE),
        _Row("failed", f"{bad:.0f} /s", bad, "red", "red", top=_TOP_RATE),
        _Row("refused: queue full (429)", f"{full:.0f} /s", full, "bold red", "red", top=_TOP_RATE),
        _Row("refused: breaker open (503)", f"{fast:.0f} /s", fast, "bold red", "red", top=_TOP_RATE),
        _Row("dropped at shutdown", f"{lost}", lost, "bold red", "red", scale="lost"),
        None,
        _Row("queued", f"{depth} of {capacity}", depth, alarm, top=capacity),
        _Row("workers busy", f"{now.workers_busy} of {now.workers}", now.workers_busy, busy, top=now.workers),
        _Row("dwell p50 / p95", dwell, recent.dwell_p95 or 0.0, scale="wait"),
        _Row("oldest queued", seconds(now.oldest_queued), now.oldest_queued, scale="wait"),
        _Row("run p50 / p95", run, recent.duration_p95 or 0.0, scale="run"),
        _Row("longest running", seconds(now.longest_running), now.longest_running, scale="run"),
        _Row("hung", f"{now.hung}", now.hung, "bold red", "red", top=now.workers),
        _Row("breaker", state.replace("_", "-"), breaker, _BREAKER_STYLE.get(state, ""), "red", top=1.0),
    ]


class LiveView:
    """The table, redrawn in place."""

    def __init__(self, console: Console) -> None:
        """Draw on ``console``, which must be a terminal."""
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._history: dict[str, deque[float]] = {}
        self._drawn = -1

    def __enter__(self) -> Self:
        """Take the whole terminal."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was."""
        self._live.stop()

    def show(self, moment: Moment) -> None:
        """Redraw; the bars move once per second."""
        self._live.update(self.render(moment), refresh=True)

    def render(self, moment: Moment) -> RenderableType:
        """Lay one moment out; a low terminal goes without the log, a narrow one with fewer bars."""
        rows = _rows(moment)
        if int(moment.elapsed) != self._drawn:
            self._drawn = int(moment.elapsed)
            for row in rows:
                if row is not None:
                    self._history.setdefault(row.label, deque(maxlen=_HISTORY)).append(row.height)
        parts = [self._head(moment), self._table(rows), self._law(moment)]
        lines = self._console.height - _FIXED_LINES
        return Group(*parts, self._log(moment, min(lines, 8))) if lines >= 3 else Group(*parts)

    def _head(self, moment: Moment) -> RenderableType:
        bar = ProgressBar(
            total=max(moment.act.seconds, 0.1),
            completed=min(moment.act_elapsed, moment.act.seconds),
            width=None,
        )
        return Panel(
            Group(Text(moment.act.watch, style="italic"), bar),
            title=f"[bold]Act {moment.number} of {moment.acts}: {moment.act.title}[/]",
            subtitle=f"prodpool: webhook_delivery, {moment.elapsed:.0f} s",
            title_align="left",
            subtitle_align="right",
            border_style="cyan",
        )

    def _table(self, rows: Sequence[_Row | None]) -> Table:
        width = max(0, min(_HISTORY, self._console.width - _FIXED_COLUMNS))
        bars = {label: list(history)[-width:] for label, history in self._history.items()}
        table = Table(box=None, expand=False, show_header=True, header_style="dim", padding=(0, 1))
        table.add_column("", min_width=28, no_wrap=True)
        table.add_column("now", justify="right", min_width=17, no_wrap=True)
        table.add_column(f"last {width} s", no_wrap=True)
        for row in rows:
            if row is None:
                table.add_row("", "", "")
                continue
            style = row.style if row.height or row.label == "breaker" else "dim"
            drawn = spark(bars[row.label], row.top or self._top(row.scale, rows, bars))
            table.add_row(row.label, Text(row.value, style=style), _coloured(drawn, row.bars))
        return table

    def _top(self, scale: str, rows: Sequence[_Row | None], bars: Mapping[str, list[float]]) -> float:
        shared = [row.label for row in rows if row is not None and row.scale == scale]
        return max([_LEAST_TOP, *(value for label in shared for value in bars[label])])

    def _law(self, moment: Moment) -> Text:
        if moment.broken is None:
            return Text(f" conservation law: holds in all of {moment.scrapes} scrapes", style="green")
        return Text(f" conservation law BROKEN: {moment.broken}", style="bold red")

    def _log(self, moment: Moment, height: int) -> RenderableType:
        text = Text(no_wrap=True, overflow="ellipsis")
        for line in list(moment.events.lines)[2 - height :]:
            times = f" x{line.times}" if line.times > 1 else ""
            text.append(f"{line.time} ", style="dim")
            text.append(f"{line.event}{times}", style="yellow" if line.notable else "cyan")
            text.append(f" {line.fields}\n", style="dim")
        return Panel(text, title="log", title_align="left", border_style="dim", height=height)
