"""What the operator sees: a live table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .acts import Act
from .events import EventLog
from .report import Window
from .scrape import Snapshot

_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 44
_BREAKER_STYLE = {"closed": "green", "open": "bold red", "half_open": "yellow"}


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything there is to show at one time.

    Attributes:
        act: The act being played.
        number: Its number, from 1.
        acts: How many there are.
        act_elapsed: Seconds since it began.
        elapsed: Seconds since the first began.
        now: The last scrape.
        recent: About a second of scrapes, summarised.
        scrapes: How many were taken.
        broken: How the conservation law failed in the first scrape where it did, if any.
        events: The service's log.
    """

    act: Act
    number: int
    acts: int
    act_elapsed: float
    elapsed: float
    now: Snapshot
    recent: Window
    scrapes: int
    broken: str | None
    events: EventLog


class View(Protocol):
    """Something that shows moments."""

    def __enter__(self) -> Self:
        """Take the terminal."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""

    def show(self, moment: Moment) -> None:
        """Show the state of things; called a few times per second."""


def seconds(value: float | None) -> str:
    """Write a time as people say it: 12 ms, 1.25 s."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def spark(values: Sequence[float], top: float | None = None) -> str:
    """Draw values as a line of bars, scaled to ``top`` or to the greatest of them."""
    height = top or max(values, default=0.0)
    if height <= 0:
        return _SPARKS[0] * len(values)
    return "".join(_SPARKS[min(7, round(max(value, 0.0) / height * 7))] for value in values)


def rate(count: int, window: Window) -> float:
    """Return a count of a window per second."""
    return count / window.seconds if window.seconds else 0.0


@dataclass(slots=True)
class _Row:
    """One line of the table: label, value now, its history, and how to colour it."""

    label: str
    value: str
    history: float | None = None
    top: float | None = None
    style: str = ""


def _rows(moment: Moment) -> list[_Row | None]:
    now, recent = moment.now, moment.recent
    ok = rate(recent.completed.get("ok", 0), recent)
    bad = rate(sum(n for result, n in recent.completed.items() if result != "ok"), recent)
    full, fast = (rate(recent.dropped.get(reason, 0), recent) for reason in ("full", "breaker_open"))
    lost = now.dropped.get("shutdown", 0)
    offered = rate(recent.offered, recent)
    alarm = "bold red" if now.queue_depth >= now.queue_capacity else "yellow" if now.queue_depth > 8 else ""
    busy = "yellow" if now.workers_busy >= now.workers else ""
    return [
        _Row("offered", f"{offered:.0f} /s", offered),
        _Row("delivered", f"{ok:.0f} /s", ok, style="green"),
        _Row("failed", f"{bad:.0f} /s", bad, style="red" if bad else ""),
        _Row("refused: queue full (429)", f"{full:.0f} /s", full, style="bold red" if full else ""),
        _Row("refused: breaker open (503)", f"{fast:.0f} /s", fast, style="bold red" if fast else ""),
        _Row("dropped at shutdown", f"{lost}", style="bold red" if lost else "dim"),
        None,
        _Row(
            "queued", f"{now.queue_depth} of {now.queue_capacity}", now.queue_depth, now.queue_capacity, alarm
        ),
        _Row("workers busy", f"{now.workers_busy} of {now.workers}", now.workers_busy, now.workers, busy),
        _Row(
            "dwell p50 / p95",
            f"{seconds(recent.dwell_p50)} / {seconds(recent.dwell_p95)}",
            recent.dwell_p95 or 0.0,
        ),
        _Row(
            "run p50 / p95",
            f"{seconds(recent.duration_p50)} / {seconds(recent.duration_p95)}",
            recent.duration_p95 or 0.0,
        ),
        _Row("oldest queued", seconds(now.oldest_queued), now.oldest_queued),
        _Row("longest running", seconds(now.longest_running), now.longest_running),
        _Row("hung", f"{now.hung}", now.hung, now.workers, "bold red" if now.hung else "dim"),
        _Row(
            "breaker",
            now.breaker.replace("_", "-"),
            float(now.breaker != "closed"),
            1.0,
            _BREAKER_STYLE.get(now.breaker, ""),
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
        """Redraw; the bars move once per second."""
        self._live.update(self.render(moment), refresh=True)

    def render(self, moment: Moment) -> RenderableType:
        """Lay one moment out."""
        rows = _rows(moment)
        if int(moment.elapsed) != self._drawn:
            self._drawn = int(moment.elapsed)
            for row in rows:
                if row is not None and row.history is not None:
                    self._history.setdefault(row.label, deque(maxlen=_HISTORY)).append(row.history)
        return Group(self._head(moment), self._table(rows), self._log(moment), self._foot(moment))

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
        table = Table(box=None, expand=False, show_header=True, header_style="dim", padding=(0, 1))
        table.add_column("", min_width=28, no_wrap=True)
        table.add_column("now", justify="right", min_width=17, no_wrap=True)
        table.add_column(f"last {_HISTORY} s", no_wrap=True)
        for row in rows:
            if row is None:
                table.add_row("", "", "")
                continue
            bars = spark(list(self._history[row.label]), row.top) if row.history is not None else ""
            table.add_row(row.label, Text(row.value, style=row.style), Text(bars, style=row.style or "blue"))
        return table

    def _log(self, moment: Moment) -> RenderableType:
        text = Text(no_wrap=True, overflow="ellipsis")
        for line in list(moment.events.lines)[-6:]:
            times = f" x{line.times}" if line.times > 1 else ""
            text.append(f"{line.time} ", style="dim")
            text.append(f"{line.event}{times}", style="yellow" if line.notable else "cyan")
            text.append(f" {line.fields}\n", style="dim")
        return Panel(text, title="log", title_align="left", border_style="dim", height=8)

    def _foot(self, moment: Moment) -> Text:
        if moment.broken is None:
            return Text(f" conservation law: holds in all of {moment.scrapes} scrapes", style="green")
        return Text(f" conservation law BROKEN: {moment.broken}", style="bold red")


class PlainView:
    """For a log, a pipe, CI: an act's name when it begins, and a line every few seconds."""

    def __init__(self, console: Console, *, every: float = 5.0) -> None:
        """Print to ``console``, one line per ``every`` seconds."""
        self._console = console
        self._every = every
        self._act = 0
        self._next = 0.0

    def __enter__(self) -> Self:
        """Nothing to take."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    def show(self, moment: Moment) -> None:
        """Print a line when it is time for one."""
        if moment.number != self._act:
            self._act, self._next = moment.number, moment.elapsed + 1.5
            self._print(f"act {moment.number} of {moment.acts}: {moment.act.title}. {moment.act.watch}")
        if moment.elapsed >= self._next:
            self._next = moment.elapsed + self._every
            self._print(self.line(moment))

    def line(self, moment: Moment) -> str:
        """Write one moment as one line."""
        now, recent = moment.now, moment.recent
        dropped = " ".join(f"{reason}={n}" for reason, n in now.dropped.items() if n)
        ok = rate(recent.completed.get("ok", 0), recent)
        bad = rate(sum(recent.completed.values()) - recent.completed.get("ok", 0), recent)
        return (
            f"  {moment.elapsed:4.0f} s  offered {rate(recent.offered, recent):.0f}/s"
            f" ok {ok:.0f}/s failed {bad:.0f}/s"
            f"  queued {now.queue_depth}/{now.queue_capacity} busy {now.workers_busy}/{now.workers}"
            f" hung {now.hung}  dwell p95 {seconds(recent.dwell_p95)}  breaker {now.breaker}"
            f"  dropped so far: {dropped or 'none'}"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def report_table(acts: Sequence[Act], windows: Sequence[Window]) -> Table:
    """Lay out what happened in each act."""
    table = Table(
        box=SIMPLE_HEAD, title="What happened, from the scraped metrics alone", title_justify="left"
    )
    table.add_column("act", no_wrap=True)
    for name in (
        "offered",
        "ok",
        "error",
        "full",
        "breaker",
        "closed",
        "shutdown",
        "dwell p95",
        "run p95",
        "depth",
        "hung",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("breaker states")
    for number, (act, seen) in enumerate(zip(acts, windows, strict=False), start=1):
        drops = (seen.dropped.get(reason, 0) for reason in ("full", "breaker_open", "closed", "shutdown"))
        counts = (seen.offered, seen.completed.get("ok", 0), seen.completed.get("error", 0), *drops)
        table.add_row(
            f"{number} {act.title}",
            *(Text(str(count), style="" if count else "dim") for count in counts),
            seconds(seen.dwell_p95),
            seconds(seen.duration_p95),
            str(seen.max_depth),
            Text(str(seen.max_hung), style="" if seen.max_hung else "dim"),
            " ".join(seen.breaker).replace("_", "-"),
        )
    return table
