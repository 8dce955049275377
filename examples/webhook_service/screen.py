"""What the operator sees off a terminal: a moment, as a line now and then."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from .acts import Act
from .events import EventLog
from .report import Window
from .scrape import Snapshot


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


def rate(count: int, window: Window) -> float:
    """Return a count of a window per second."""
    return count / window.seconds if window.seconds else 0.0


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
        bad = rate(recent.failed, recent)
        return (
            f"  {moment.elapsed:4.0f} s  offered {rate(recent.offered, recent):.0f}/s"
            f" ok {ok:.0f}/s failed {bad:.0f}/s"
            f"  queued {now.queue_depth}/{now.queue_capacity} busy {now.workers_busy}/{now.workers}"
            f" hung {now.hung}  dwell p95 {seconds(recent.dwell_p95)}  breaker {now.breaker}"
            f"  dropped so far: {dropped or 'none'}"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
