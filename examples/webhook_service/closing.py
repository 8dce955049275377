"""What is said at the end: tables that add up, what the senders counted, the stack of a hung delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .acts import Act
from .alerts import SETTINGS, AlertStory, Firing
from .events import EventLog
from .processes import ROOT
from .report import Window
from .scrape import Snapshot
from .screen import seconds
from .traffic import Tally

# In the order of the table. A column that is not in `_ALWAYS` is there in a run that needs it.
_RESULTS = ("ok", "error", "panic", "timeout", "expected", "cancelled")
_ALWAYS = ("ok", "error", "full", "breaker_open", "shutdown")
_HEADS = {
    "timeout": "time-\nout",
    "full": "full\n429",
    "breaker_open": "open\n503",
    "closed": "closed\n503",
    "expired": "ex-\npired",
    "cancelled": "can-\ncelled",
    "shutdown": "shut-\ndown",
}
_FRAME = "  File "
_HUNG = "task.still_running"
_LOST = "PoolShutdownLostTasks"
NO_PROMETHEUS = (
    "Alerts were not evaluated: there is no Prometheus on this machine. On Debian: apt-get install prometheus"
)


def _dimmed(number: int) -> Text:
    return Text(str(number), style="" if number else "dim")


def _table(title: str) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        padding=0,
        show_edge=False,
        expand=False,
    )
    table.add_column("act", min_width=10, vertical="bottom")
    return table


def _add_numbers(table: Table, heads: Sequence[str]) -> None:
    tallest = max(head.count("\n") for head in heads)
    for head in heads:
        table.add_column("\n" * (tallest - head.count("\n")) + head, justify="right", no_wrap=True)


def _became(seen: Window) -> dict[str, int]:
    """Return what became of the tasks of a window, by result or reason."""
    names = dict.fromkeys((*_RESULTS, *seen.completed, *seen.dropped))
    # A task is "cancelled" before it runs or while it does.
    return {name: seen.completed.get(name, 0) + seen.dropped.get(name, 0) for name in names}


def account(acts: Sequence[Act], windows: Sequence[Window], whole: Window) -> Table:
    """Lay out what became of the tasks of each act, such that each row adds up.

    Args:
        acts: One per row.
        windows: The scrapes of each act.
        whole: All scrapes, for the last row.
    """
    shown = [name for name, number in _became(whole).items() if number or name in _ALWAYS]
    table = _table("What became of everything offered, from the scraped metrics alone")
    middle = [_HEADS.get(name, name) for name in shown]
    _add_numbers(table, ["in\nflight\nbefore", "offered", *middle, "in\nflight\nafter"])
    rows = [(f"{n} {act.title}", seen) for n, (act, seen) in enumerate(zip(acts, windows, strict=True), 1)]
    for name, seen in [*rows, ("all", whole)]:
        became: Mapping[str, int] = _became(seen)
        numbers = [became.get(one, 0) for one in shown]
        counts = (seen.in_flight_before, seen.offered, *numbers, seen.in_flight_after)
        table.add_row(name, *map(_dimmed, counts), end_section=seen is windows[-1])
    return table


def account_notes(last: Snapshot) -> list[str]:
    """Say how the account is to be read, given the last scrape."""
    notes = [
        "Each row: in flight before + offered = the sum of all that follows. In flight: queued + running."
    ]
    if last.stopped and last.workers_busy:
        notes.append(
            f"The {last.workers_busy} in flight after the last act were abandoned: still running in the last"
            " scrape, past the drain deadline. The log names them, and abandoned ones that ended before it."
        )
    if closed := last.dropped.get("closed", 0):
        notes.append(
            f"The {closed} refused as closed had got in before the intake closed, but after SIGTERM."
        )
    return notes


def measures(acts: Sequence[Act], windows: Sequence[Window]) -> Table:
    """Lay out what each act was like."""
    table = _table("What it was like, from the same scrapes")
    _add_numbers(table, ["dwell\np95", "most\nqueued", "most\nbusy", "most\nhung", "breaker\nat end"])
    for number, (act, seen) in enumerate(zip(acts, windows, strict=True), start=1):
        table.add_row(
            f"{number} {act.title}",
            seconds(seen.dwell_p95),
            *map(_dimmed, (seen.max_depth, seen.max_busy, seen.max_hung)),
            seen.breaker[-1].replace("_", "-"),
        )
    return table


def alerts_fired(acts: Sequence[Act], story: AlertStory) -> Table:
    """Lay out which alerts began to fire in each act, how soon, for how long, and where to read on."""
    table = _table("Which alerts fired, from Prometheus's own record")
    for head in ("alert", "severity", "after", "for"):
        table.add_column(head, justify="right" if head in {"after", "for"} else "left", no_wrap=True)
    table.add_column("what to read", overflow="fold")  # whole on a narrow terminal, too
    for number, act in enumerate(acts, start=1):
        rows = [_alert_row(one, story.acts[number - 1][0]) for one in story.began_in(number)]
        rows = rows or [("none", "", "", "", "")]
        for row, cells in enumerate(rows, start=1):
            title = f"{number} {act.title}" if row == 1 else ""
            table.add_row(title, *cells, end_section=row == len(rows))
    return table


def _alert_row(firing: Firing, began: float) -> tuple[str, ...]:
    after, lasted = firing.first - began, firing.last - firing.first
    return firing.alert, firing.severity, f"{after:.1f} s", f"{lasted:.1f} s", firing.runbook_url


def alert_notes(story: AlertStory | None) -> list[str]:
    """Say how the alerts are to be read, or why there are none and how to have them."""
    if story is None:
        return [NO_PROMETHEUS]
    scale = SETTINGS.window_scale
    said = (
        f"Prometheus {story.version} evaluated this project's rules with every window and waiting time at"
        f" {scale:.0%}: 5 minutes are {300 * scale:g} s. After: since the act began. For: until it was over,"
        " maybe in a later act, or until the end of the run."
    )
    if _LOST in {one.alert for one in story.firings}:
        return [said]
    lost = (
        f"{_LOST} did not fire, although tasks were dropped: no scrape of Prometheus fell between their being"
        " counted and the end of the process. That happens in production, too; what is sure is the log's"
        " pool.stopped."
    )
    return [said, lost]


def senders_say(tally: Tally) -> list[str]:
    """Say what the senders counted, in numbers that add up among themselves."""
    refused = sum(tally.refused.values())
    unavailable = sum(tally.refused.get(reason, 0) for reason in ("breaker_open", "closed"))
    counted = f"{tally.accepted} answers 202, {refused - unavailable} answers 429, {unavailable} answers 503"
    said = [f"Counted by the senders, not by the pool: {counted}."]
    if refused:
        said.append(
            f"After {tally.waited} of these {refused} refusals the sender, one of the burst, waited as"
            f" Retry-After said and came again; the other {refused - tally.waited} ended their webhook:"
            " the senders of the steady load never come again."
        )
    if tally.missed:
        said.append(
            f"{_many(tally.missed, 'request')} never reached the pool, as the intake was closed"
            " (or all its connections were taken): the account above is without them."
        )
    if tally.cut:
        said.append(
            f"{_many(tally.cut, 'answer')} {'was' if tally.cut == 1 else 'were'} lost on the way: whether the"
            " pool saw the request is not known."
        )
    return said


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def hung_sample(events: EventLog) -> list[str]:
    """Show one of the stacks in the log, trimmed to both ends; nothing when there is none."""
    if _HUNG not in events.first:
        return []
    number, record = events.first[_HUNG]
    elapsed = seconds(record.get("elapsed"))
    head = (
        f"The first of {events.counts[_HUNG]} {_HUNG} in the log (line {number}):"
        f" {record.get('task')}, for {elapsed}, at"
    )
    return [head, *_trimmed(record)]


def _trimmed(record: Mapping[str, Any]) -> list[str]:
    frames: list[list[str]] = []
    for line in str(record.get("stack", "")).replace(f"{ROOT}/", "").splitlines():
        if line.startswith(_FRAME) or not frames:
            frames.append([])
        frames[-1].append(line)
    if len(frames) <= 2:
        return [line for frame in frames for line in frame]
    return [*frames[0], f"  ... {len(frames) - 2} frames more ...", *frames[-1]]
