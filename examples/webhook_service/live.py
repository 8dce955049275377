"""The live table in a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .acts import STEADY
from .screen import Moment, rate, seconds

_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 60
# Columns of the screen that are not bars, and lines that the log may have, its frame included.
_FIXED_COLUMNS = 61
_LOG_LINES = range(5, 11)
# Times below this do not fill a bar: a millisecond's noise is not worth a look.
_LEAST_TOP = 0.1
# A burst goes over the top, so that the ordinary load keeps some height.
_TOP_RATE = 2 * STEADY
_SCALES = {"wait": ("dwell p50 / p95", "oldest queued"), "run": ("run p50 / p95", "longest running")}
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

    A bar is full at ``top``, or at the greatest value of all rows with the same ``scale``. ``written`` writes
    a height as the value is written. A low terminal goes without a row that is a ``detail``.
    """

    label: str
    value: str
    height: float
    written: Callable[[float], str]
    style: str = ""
    bars: str = "blue"
    top: float = 0.0
    scale: str = ""
    detail: bool = False


def _rate(value: float) -> str:
    return f"{value:.0f} /s"


def _count(value: float) -> str:
    return f"{value:.0f}"


def _state(value: float) -> str:
    return {0.0: "closed", 0.5: "half-open"}.get(value, "open")


def _rows(moment: Moment) -> list[_Row | None]:
    now, recent = moment.now, moment.recent
    ok = rate(recent.completed.get("ok", 0), recent)
    bad = rate(recent.failed, recent)
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
        _Row("offered", _rate(offered), offered, _rate, top=_TOP_RATE),
        _Row("delivered", _rate(ok), ok, _rate, "green", "green", top=_TOP_RATE),
        _Row("failed", _rate(bad), bad, _rate, "red", "red", top=_TOP_RATE),
        _Row("refused: full (429)", _rate(full), full, _rate, "bold red", "red", top=_TOP_RATE),
        _Row("refused: breaker (503)", _rate(fast), fast, _rate, "bold red", "red", top=_TOP_RATE),
        _Row("dropped at shutdown", f"{lost}", lost, _count, "bold red", "red", top=capacity),
        None,
        _Row("queued", f"{depth} of {capacity}", depth, _count, alarm, top=capacity),
        _Row(
            "workers busy",
            f"{now.workers_busy} of {now.workers}",
            now.workers_busy,
            _count,
            busy,
            top=now.workers,
        ),
        _Row("dwell p50 / p95", dwell, recent.dwell_p95 or 0.0, seconds, scale="wait"),
        _Row(
            "oldest queued", seconds(now.oldest_queued), now.oldest_queued, seconds, scale="wait", detail=True
        ),
        _Row("run p50 / p95", run, recent.duration_p95 or 0.0, seconds, scale="run"),
        _Row(
            "longest running",
            seconds(now.longest_running),
            now.longest_running,
            seconds,
            scale="run",
            detail=True,
        ),
        _Row("hung", f"{now.hung}", now.hung, _count, "bold red", "red", top=now.workers),
        _Row(
            "breaker", state.replace("_", "-"), breaker, _state, _BREAKER_STYLE.get(state, ""), "red", top=1.0
        ),
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
        """Redraw; the bars move once per second, and each is its second's greatest."""
        self._live.update(self.render(moment), refresh=True)

    def render(self, moment: Moment) -> RenderableType:
        """Lay one moment out; a low terminal gets a smaller frame and fewer rows, a narrow one fewer bars."""
        rows = _rows(moment)
        self._remember(moment, rows)
        law = self._law(moment)
        parts = [self._head(moment), self._table(rows), law]
        left = self._left(parts)
        if left < _LOG_LINES.start:
            parts = [
                self._low_head(moment),
                self._table([row for row in rows if row and not row.detail]),
                law,
            ]
            left = self._left(parts)
        return Group(*parts, self._log(moment, min(left, _LOG_LINES.stop))) if left >= 3 else Group(*parts)

    def _left(self, parts: Sequence[RenderableType]) -> int:
        return self._console.height - len(self._console.render_lines(Group(*parts)))

    def _remember(self, moment: Moment, rows: Sequence[_Row | None]) -> None:
        later = int(moment.elapsed) != self._drawn
        self._drawn = int(moment.elapsed)
        for row in rows:
            if row is None:
                continue
            history = self._history.setdefault(row.label, deque(maxlen=_HISTORY))
            height = row.height if later else max(row.height, history.pop())
            history.append(height)

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

    def _low_head(self, moment: Moment) -> RenderableType:
        title = f"[bold]Act {moment.number} of {moment.acts}: {moment.act.title}[/]"
        done = f"{min(moment.act_elapsed, moment.act.seconds):.0f} of {moment.act.seconds:.0f} s"
        return Group(
            Rule(f"{title}, {done}", align="left", style="cyan"), Text(moment.act.watch, style="italic")
        )

    def _table(self, rows: Sequence[_Row | None]) -> Table:
        width = max(0, min(_HISTORY, self._console.width - _FIXED_COLUMNS))
        bars = {label: list(history)[-width:] for label, history in self._history.items()}
        table = Table(box=None, expand=False, show_header=True, header_style="dim", padding=(0, 1))
        table.add_column("", min_width=22, no_wrap=True)
        table.add_column("now", justify="right", min_width=15, no_wrap=True)
        table.add_column("max", justify="right", min_width=6, no_wrap=True)
        table.add_column("full bar", justify="right", style="dim", no_wrap=True)
        table.add_column(f"last {width} s", no_wrap=True)
        for row in rows:
            if row is None:
                table.add_row()
            else:
                table.add_row(*self._cells(row, bars))
        return table

    def _cells(self, row: _Row, bars: Mapping[str, list[float]]) -> tuple[RenderableType, ...]:
        top = row.top or self._top(row.scale, bars)
        style = row.style if row.height or row.label == "breaker" else "dim"
        most = row.written(max(bars[row.label], default=0.0))
        drawn = _coloured(spark(bars[row.label], top), row.bars)
        return row.label, Text(row.value, style=style), most, row.written(top), drawn

    def _top(self, scale: str, bars: Mapping[str, list[float]]) -> float:
        return max([_LEAST_TOP, *(value for label in _SCALES[scale] for value in bars[label])])

    def _law(self, moment: Moment) -> Text:
        if moment.broken is None:
            return Text(f" conservation law: holds in all of {moment.scrapes} scrapes", style="green")
        return Text(f" conservation law BROKEN: {moment.broken}", style="bold red")

    def _log(self, moment: Moment, height: int) -> RenderableType:
        text = Text(no_wrap=True, overflow="ellipsis")
        for line in moment.events.lines[2 - height :]:
            times = f" x{line.times}" if line.times > 1 else ""
            text.append(f"{line.time} ", style="dim")
            text.append(f"{line.event}{times}", style="yellow" if line.notable else "cyan")
            text.append(f" {line.fields}\n", style="dim")
        return Panel(
            text,
            title="log: each event's last line and how many so far, newest last",
            title_align="left",
            border_style="dim",
            height=height,
        )
